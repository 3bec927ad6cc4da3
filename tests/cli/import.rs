//! Weights of another program as a run folder: the ranks that the same weights gave before, and what is refused.

use crate::sandbox::{Sandbox, small};
use crate::torch::{self, Named};
use lumos::{data, run};

/// A run of SASRec with two heads and two blocks, and its weights as LUMOS exports them.
fn trained(sandbox: &Sandbox) -> Named {
    let sets = ["method=fed-sasrec", "model.heads=2", "model.blocks=2", "model.max_len=6", "loss.negatives=4"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    sandbox.lumos(&[&["train", &small(), "--out", "ours"], &sets[..]].concat()).done();
    sandbox.lumos(&["export", "ours", "--torch", "torch"]).done();
    torch::read(&sandbox.read("torch/model.safetensors"))
}

fn ranks(sandbox: &Sandbox, folder: &str) -> Vec<u32> {
    run::read_ranks(&sandbox.path().join(folder).join("ranks-test.safetensors")).unwrap().0
}

#[test]
fn imported_weights_give_the_ranks_that_they_gave_before() {
    let sandbox = Sandbox::new();
    let ours = trained(&sandbox);
    let world = data::load(&sandbox.path().join("data/small")).unwrap();
    let items = world.item_count();
    let plain = torch::as_port(&ours, &(0..items).collect::<Vec<_>>());
    // With a row of padding among the positions.
    let mut padded = plain.clone();
    let (shape, values) = padded.get_mut("pos_emb.weight").unwrap();
    shape[0] += 1;
    values.splice(0..0, vec![0.0; 8]);
    // Rows in another order, one of an item that the data set does not have.
    let order: Vec<usize> = std::iter::once(0).chain((0..items).rev()).collect();
    let names = order
        .iter()
        .enumerate()
        .map(|(row, item)| if row == 0 { "unknown\n".to_string() } else { format!("{}\n", world.item_tokens[*item]) });
    sandbox.write("items.txt", names.collect::<String>().as_bytes());
    let parallel = plain.iter().map(|(name, tensor)| (format!("module.{name}"), tensor.clone())).collect();
    sandbox.write("plain.safetensors", &torch::safetensors(&plain));
    sandbox.write("plain.pth", &torch::saved(&plain));
    sandbox.write("parallel.pt", &torch::saved(&parallel));
    sandbox.write("padded.pth", &torch::saved(&padded));
    sandbox.write("turned.pth", &torch::saved(&torch::as_port(&ours, &order)));
    for (file, more) in [
        ("plain.safetensors", &[][..]),
        ("plain.pth", &["--max-len", "6"]),
        ("parallel.pt", &[]),
        ("padded.pth", &["--blocks", "query-norm"]),
        ("turned.pth", &["--items", "items.txt"]),
    ] {
        let out = format!("runs/{file}");
        let words = ["import", file, "--data", "data/small", "--heads", "2", "--set", "loss.negatives=4", "--out", &out];
        let said = sandbox.lumos(&[&words, more].concat()).done();
        assert!(said.contains(&format!("weights for {items} items")), "{said}");
        assert_eq!(said.contains("1 rows of other items left out"), file == "turned.pth", "{said}");
        sandbox.lumos(&["eval", &out]).done();
        assert_eq!(ranks(&sandbox, &out), ranks(&sandbox, "ours"), "{file}");
    }
    // What goes out again is what came in.
    sandbox.lumos(&["export", "runs/plain.pth", "--torch", "again"]).done();
    assert_eq!(torch::read(&sandbox.read("again/model.safetensors")), ours);
    let lists =
        ["ours", "runs/plain.pth"].map(|folder| sandbox.lumos(&["recommend", folder, "--user", &world.user_tokens[3], "--json"]).json());
    assert_eq!(lists[0]["items"], lists[1]["items"]);
    sandbox.lumos(&["compare", "ours", "runs/plain.pth"]).done();
    sandbox.lumos(&["report", "runs/plain.pth", "--out", "report.html"]).done();
    sandbox.lumos(&["import", "plain.pth", "--data", "data/small", "--out", "ours"]).refused(1, &["ours", "holds a run already"]);
}

#[test]
fn an_imported_run_is_trained_further_by_the_command_that_is_printed() {
    let sandbox = Sandbox::new();
    let ours = trained(&sandbox);
    let items = data::load(&sandbox.path().join("data/small")).unwrap().item_count();
    sandbox.write("w.safetensors", &torch::safetensors(&torch::as_port(&ours, &(0..items).collect::<Vec<_>>())));
    for (data, out, sets) in
        [("data/small", "from folder", &["method=fed-sasrec"][..]), ("small.toml", "from-file", &["loss.negatives=4", "seed=7"])]
    {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let words = ["import", "w.safetensors", "--data", data, "--heads", "2", "--out", out, "--json"];
        let said = sandbox.lumos(&[&words, &sets[..]].concat()).json();
        assert_eq!((&said["items"], &said["left_out"], &said["users"]), (&items.into(), &0.into(), &200.into()), "{said}");
        assert!(said["short"].as_u64().is_some_and(|n| n > 0 && n < 200), "{said}");
        let words = shlex::split(said["train"].as_str().unwrap()).unwrap();
        let mut words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        words.extend(["--set", "federation.rounds=1"]);
        let trained = sandbox.lumos(&words).done();
        assert!(trained.contains("best of 1 rounds"), "{trained}");
    }
}

/// Files that are refused: what is wrong in them, and what the message has.
#[test]
fn what_cannot_be_imported_is_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["data", "build", &small()]).done();
    let items = data::load(&sandbox.path().join("data/small")).unwrap().item_count();
    let good: Named = torch::port_shapes(items, 6, 8, 2)
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product::<usize>();
            (name, (shape, (0..n).map(|i| 0.01 * (i % 17) as f32 - 0.05).collect()))
        })
        .collect();
    let refused = |bytes: &[u8], more: &[&str], parts: &[&str]| {
        sandbox.write("w", bytes);
        let words = ["import", "w", "--data", "data/small", "--set", "loss.negatives=4", "--out", "runs/x"];
        sandbox.lumos(&[&words, more].concat()).refused(1, parts);
        assert!(!sandbox.path().join("runs").exists(), "nothing may be left: {parts:?}");
    };
    let changed = |change: &dyn Fn(&mut Named)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        torch::saved(&tensors)
    };
    let whole = torch::saved(&good);
    // Another model, or not all of one.
    refused(&changed(&|t| drop(t.remove("last_layernorm.bias"))), &[], &["no tensor `last_layernorm.bias`"]);
    let renamed = |t: &mut Named| {
        let tensor = t.remove("attention_layers.1.in_proj_bias").unwrap();
        t.insert("attention_layers.1.in_proj_bais".into(), tensor);
    };
    refused(&changed(&renamed), &[], &["1 tensors that SASRec.pytorch does not have (attention_layers.1.in_proj_bais)"]);
    let wide = |t: &mut Named| drop(t.insert("forward_layers.0.conv2.weight".into(), (vec![8, 9, 1], vec![0.0; 72])));
    refused(&changed(&wide), &[], &["`forward_layers.0.conv2.weight` has shape [8, 9, 1], expected [8, 8, 1] or [8, 8]"]);
    let flat = |t: &mut Named| drop(t.insert("item_emb.weight".into(), (vec![64], vec![0.0; 64])));
    refused(&changed(&flat), &[], &["`item_emb.weight` has shape [64]", "[rows, width]"]);
    let diverged = |t: &mut Named| t.get_mut("pos_emb.weight").unwrap().1[9] = f32::NAN;
    refused(&changed(&diverged), &[], &["`pos_emb.weight`", "NaN", "place 9"]);
    refused(&torch::saved(&Named::from([("a.weight".into(), (vec![1], vec![1.0]))])), &[], &["no model that is known", "a.weight"]);
    let recbole = ["item_embedding.weight", "trm_encoder.layer.0.multi_head_attention.query.weight"];
    let recbole = recbole.map(|name| (name.to_string(), (vec![1], vec![1.0])));
    refused(&torch::saved(&recbole.into()), &[], &["RecBole", "no counterpart", "gelu", "bert4rec"]);
    let exported = ["items.weight", "blocks.0.q.weight"].map(|name| (name.to_string(), (vec![1], vec![1.0])));
    refused(&torch::safetensors(&exported.into()), &[], &["lumos export --torch"]);
    // Versions of the port that compute other things.
    let padded = |t: &mut Named| t.get_mut("pos_emb.weight").unwrap().1[..8].fill(0.0);
    refused(&changed(&padded), &[], &["--blocks", "query-norm", "norm-first"]);
    refused(&whole, &["--blocks", "norm-first"], &["keys and values from the norm as well", "no counterpart"]);
    refused(&whole, &["--blocks", "post-norm"], &["norm behind each residual", "no counterpart"]);
    // What the command line says.
    refused(&whole, &["--heads", "3"], &["--heads 3", "width 8: 1, 2, 4, 8"]);
    refused(&whole, &["--max-len", "4"], &["6 rows", "--max-len 4 expects 4 or one more"]);
    refused(&whole, &["--set", "model.dim=4"], &["model.dim", "leave it out"]);
    refused(&whole, &["--set", "method=popularity"], &["popularity", "no weights"]);
    refused(&whole, &["--set", "method=ptf-fsr"], &["ptf-fsr"]);
    refused(&whole, &["--numbered"], &["--numbered"]);
    sandbox.write("few", b"a\nb\n");
    refused(&whole, &["--items", "few"], &["few", "2 items", &format!("the model has {items}")]);
    refused(&whole, &["--items", "nowhere"], &["nowhere"]);
    let many = |t: &mut Named| drop(t.insert("item_emb.weight".into(), (vec![items + 2, 8], vec![0.5; 8 * (items + 2)])));
    refused(&changed(&many), &[], &[&format!("{} items and data set `small` has {items}", items + 1), "--items"]);
    // Damage, and files of another kind.
    refused(b"", &[], &["neither a file of torch.save nor one of safetensors"]);
    refused(b"PK\x03\x04", &[], &["not a whole archive"]);
    refused(&whole[..whole.len() - 30], &[], &["not a whole archive"]);
    let mut bit = whole.clone();
    bit[whole.len() / 2] ^= 1;
    refused(&bit, &[], &["checksum", "wrong"]);
    refused(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", &[], &["before version 1.6", "torch.load"]);
    let pickled = |pickle: &[u8]| torch::zip(&[("archive/data.pkl".into(), pickle.to_vec())]);
    refused(&pickled(b"\x80\x02cmodel\nSASRec\n)\x81."), &[], &["class `model.SASRec`", "state_dict()"]);
    refused(&pickled(b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."), &[], &["class `os.system`"]);
    refused(&pickled(b"\x80\x02R."), &[], &["a value that is not there"]);
    refused(&pickled(b"\x80\x02X\xff\xff\xff\xff"), &[], &["cut"]);
    refused(&torch::zip(&[("a.txt".into(), b"a".to_vec())]), &[], &["no `data.pkl`"]);
    let mut half = b"\x80\x02}(".to_vec();
    for name in ["item_emb.weight", "pos_emb.weight"] {
        torch::text(&mut half, name);
        torch::described(&mut half, "HalfStorage", "0", &[3, 8], &[8, 1]);
    }
    half.extend(b"u.");
    refused(&pickled(&half), &[], &["type HalfStorage", "model.float()"]);
    sandbox.lumos(&["import", "nowhere", "--data", "data/small", "--out", "runs/x"]).refused(1, &["nowhere"]);
    sandbox.lumos(&["import", "data", "--data", "data/small", "--out", "runs/x"]).refused(1, &["data"]);
    sandbox.lumos(&["import", "w", "--out", "runs/x"]).refused(2, &["--data"]);
    sandbox.lumos(&["import", "w", "--data", "data/small", "--out", "runs/x", "--items", "few", "--numbered"]).refused(2, &["--numbered"]);
}

/// RecBole's GRU4Rec where it has one width; what it has not, and what LUMOS has not, is refused.
#[test]
fn a_gru_of_recbole_becomes_a_run_where_its_widths_are_equal() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["data", "build", &small()]).done();
    let items = data::load(&sandbox.path().join("data/small")).unwrap().item_count();
    let model = |hidden: usize| -> Named {
        let shapes = [
            ("item_embedding.weight", vec![items + 1, 8]),
            ("gru_layers.weight_ih_l0", vec![3 * hidden, 8]),
            ("gru_layers.weight_hh_l0", vec![3 * hidden, hidden]),
            ("dense.weight", vec![8, hidden]),
            ("dense.bias", vec![8]),
        ];
        let filled = |shape: &[usize]| (0..shape.iter().product()).map(|i: usize| 0.02 * (i % 19) as f32 - 0.2).collect();
        shapes.into_iter().map(|(name, shape)| (name.to_string(), (shape.clone(), filled(&shape)))).collect()
    };
    let import = |tensors: &Named, out: &str, more: &[&str]| {
        sandbox.write("gru.pth", &torch::saved(tensors));
        let words = ["import", "gru.pth", "--data", "data/small", "--set", "loss.negatives=4", "--out", out];
        sandbox.lumos(&[&words, more].concat())
    };
    let said = import(&model(8), "runs/gru", &[]).done();
    assert!(said.contains(&format!("weights for {items} items")) && !said.contains("scores differ"), "{said}");
    let settings = String::from_utf8(sandbox.read("runs/gru/config.toml")).unwrap();
    assert!(settings.contains("backbone = \"gru4rec\"") && settings.contains("method = \"gru4rec\""), "{settings}");
    assert!(settings.contains("max_len = 50 "), "RecBole's own: {settings}");
    sandbox.lumos(&["eval", "runs/gru"]).done();
    assert_eq!(ranks(&sandbox, "runs/gru").len(), 200);
    import(&model(8), "runs/short", &["--max-len", "6"]).done();
    import(&model(16), "x", &[]).refused(1, &["embedding_size 8 and hidden_size 16", "one width", "hidden_size equal to embedding_size"]);
    import(&model(8), "x", &["--heads", "2"]).refused(1, &["--heads", "no attention"]);
    let mut biased = model(8);
    biased.insert("gru_layers.bias_ih_l0".into(), (vec![24], vec![0.0; 24]));
    import(&biased, "x", &[]).refused(1, &["1 tensors that RecBole's GRU4Rec does not have (gru_layers.bias_ih_l0)"]);
    let mut cut = model(8);
    cut.remove("dense.bias");
    import(&cut, "x", &[]).refused(1, &["no tensor `dense.bias`"]);
    assert!(!sandbox.path().join("x").exists());
}

/// A tensor of any strides is read by them; one that reaches beyond its storage is refused.
#[test]
fn strides_are_followed() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["data", "build", &small()]).done();
    let items = data::load(&sandbox.path().join("data/small")).unwrap().item_count();
    let mut good: Named = torch::port_shapes(items, 6, 8, 1)
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product::<usize>();
            (name, (shape, (0..n).map(|i| 0.01 * (i % 23) as f32 - 0.1).collect()))
        })
        .collect();
    let name = "attention_layers.0.out_proj.weight";
    let file = |tensors: &Named, strides: &[usize]| {
        let mut pickle = b"\x80\x02}(".to_vec();
        let mut files = vec![(String::new(), Vec::new())];
        for (key, (tensor, (shape, values))) in tensors.iter().enumerate() {
            torch::text(&mut pickle, tensor);
            let usual: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
            torch::described(&mut pickle, "FloatStorage", &key.to_string(), shape, if tensor == name { strides } else { &usual });
            files.push((format!("x/data/{key}"), values.iter().flat_map(|x| x.to_le_bytes()).collect()));
        }
        pickle.extend(b"u.");
        files[0] = ("x/data.pkl".into(), pickle);
        torch::zip(&files)
    };
    sandbox.write("rows.pth", &file(&good, &[8, 1]));
    let values = &mut good.get_mut(name).unwrap().1;
    *values = (0..64).map(|i| values[i % 8 * 8 + i / 8]).collect();
    sandbox.write("columns.pth", &file(&good, &[1, 8]));
    sandbox.write("far.pth", &file(&good, &[8, 2]));
    for file in ["rows", "columns"] {
        sandbox.lumos(&["import", &format!("{file}.pth"), "--data", "data/small", "--set", "loss.negatives=4", "--out", file]).done();
    }
    assert_eq!(sandbox.read("rows/checkpoints/best.safetensors"), sandbox.read("columns/checkpoints/best.safetensors"));
    sandbox.lumos(&["import", "far.pth", "--data", "data/small", "--out", "far"]).refused(1, &[name, "storage holds 64 values"]);
}
