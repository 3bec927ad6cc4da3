//! Weights as other programs write them: files of `torch.save` and of safetensors, and the names of SASRec.pytorch.
#![allow(dead_code)]

use flate2::Crc;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;

/// Tensors by name: axes and values.
pub type Named = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A file of safetensors.
pub fn safetensors(tensors: &Named) -> Vec<u8> {
    let held: Vec<Vec<u8>> = tensors.values().map(|(_, values)| bytes(values)).collect();
    let views = tensors.iter().zip(&held).map(|((name, (shape, _)), b)| (name, TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// The tensors of a file of safetensors.
pub fn read(bytes: &[u8]) -> Named {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let values = |view: &TensorView| view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), values(&view)))).collect()
}

/// A text of a pickle.
pub fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

fn number(out: &mut Vec<u8>, n: usize) {
    match n {
        0..=0xff => out.extend([b'K', n as u8]),
        0x100..=0xffff => out.extend([b'M', n as u8, (n >> 8) as u8]),
        _ => {
            out.push(b'J');
            out.extend((n as u32).to_le_bytes());
        }
    }
}

fn tuple(out: &mut Vec<u8>, sizes: &[usize]) {
    out.push(b'(');
    sizes.iter().for_each(|n| number(out, *n));
    out.push(b't');
}

/// One tensor as a pickle describes it, in the storage `key`.
pub fn described(out: &mut Vec<u8>, kind: &str, key: &str, shape: &[usize], strides: &[usize]) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(format!("ctorch\n{kind}\n").bytes());
    text(out, key);
    text(out, "cpu");
    number(out, shape.iter().product());
    out.extend(b"tQK\0");
    tuple(out, shape);
    tuple(out, strides);
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// The pickle of a `state_dict`, each tensor in a storage of its number.
pub fn pickle(tensors: &Named) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec();
    for (key, (name, (shape, _))) in tensors.iter().enumerate() {
        text(&mut out, name);
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        described(&mut out, "FloatStorage", &key.to_string(), shape, &strides);
    }
    out.extend(b"u}");
    text(&mut out, "_metadata");
    out.extend(b"ccollections\nOrderedDict\n)Rsb.");
    out
}

/// A file of `torch.save`.
pub fn saved(tensors: &Named) -> Vec<u8> {
    let mut files = vec![("archive/data.pkl".to_string(), pickle(tensors)), ("archive/byteorder".into(), b"little".to_vec())];
    files.extend(tensors.values().enumerate().map(|(key, (_, values))| (format!("archive/data/{key}"), bytes(values))));
    zip(&files)
}

/// Files as they are in an archive.
pub fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut crc = Crc::new();
        crc.update(content);
        let (at, size) = (out.len() as u32, content.len() as u32);
        let sizes = [crc.sum().to_le_bytes(), size.to_le_bytes(), size.to_le_bytes()].concat();
        // As torch.save has it: the length stands in the directory, and values begin at a multiple of 64.
        let padding = 4 + (64 - (out.len() + 34 + name.len()) % 64) % 64;
        out.extend(b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        out.extend((name.len() as u16).to_le_bytes());
        out.extend((padding as u16).to_le_bytes());
        out.extend(name.bytes());
        out.extend(b"FB");
        out.extend((padding as u16 - 4).to_le_bytes());
        out.extend(std::iter::repeat_n(b'Z', padding - 4));
        out.extend(content);
        directory.extend(b"PK\x01\x02\0\0\0\0\x08\x08\0\0\0\0\0\0");
        directory.extend(sizes);
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.bytes());
    }
    let (at, size, count) = (out.len() as u32, directory.len() as u32, files.len() as u16);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    out.extend([size.to_le_bytes(), at.to_le_bytes()].concat());
    out.extend([0, 0]);
    out
}

/// What `lumos export --torch` wrote as a `state_dict` of SASRec.pytorch; `order` gives the item of each row behind that of padding.
pub fn as_port(ours: &Named, order: &[usize]) -> Named {
    let mut theirs = Named::new();
    let d = ours["items.weight"].0[1];
    let rows = order.iter().flat_map(|item| &ours["items.weight"].1[item * d..][..d]);
    // The row of padding is drawn there, and never read.
    theirs.insert("item_emb.weight".into(), (vec![order.len() + 1, d], std::iter::repeat_n(&7.5, d).chain(rows).copied().collect()));
    theirs.insert("pos_emb.weight".into(), ours["positions.weight"].clone());
    let blocks = (0..).take_while(|b| ours.contains_key(&format!("blocks.{b}.q.weight"))).count();
    for b in 0..blocks {
        for part in ["weight", "bias"] {
            let of = |name: &str| ours[&format!("blocks.{b}.{name}.{part}")].clone();
            let all = ["q", "k", "v"].into_iter().flat_map(|name| of(name).1).collect::<Vec<f32>>();
            let shape = if part == "weight" { vec![3 * d, d] } else { vec![3 * d] };
            theirs.insert(format!("attention_layers.{b}.in_proj_{part}"), (shape, all));
            for (name, ours) in
                [("attention_layernorms.{}", "norm1"), ("attention_layers.{}.out_proj", "o"), ("forward_layernorms.{}", "norm2")]
            {
                theirs.insert(format!("{}.{part}", name.replace("{}", &b.to_string())), of(ours));
            }
            for (name, ours) in [("conv1", "f1"), ("conv2", "f2")] {
                let (mut shape, values) = of(ours);
                shape.extend((part == "weight").then_some(1));
                theirs.insert(format!("forward_layers.{b}.{name}.{part}"), (shape, values));
            }
        }
    }
    for part in ["weight", "bias"] {
        theirs.insert(format!("last_layernorm.{part}"), ours[&format!("norm.{part}")].clone());
    }
    theirs
}

/// Names and axes of a small model of SASRec.pytorch.
pub fn port_shapes(items: usize, max_len: usize, d: usize, blocks: usize) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("item_emb.weight".to_string(), vec![items + 1, d]),
        ("pos_emb.weight".to_string(), vec![max_len, d]),
        ("last_layernorm.weight".to_string(), vec![d]),
        ("last_layernorm.bias".to_string(), vec![d]),
    ];
    for b in 0..blocks {
        let mut add = |name: &str, shape: &[usize]| all.push((name.replace('#', &b.to_string()), shape.to_vec()));
        add("attention_layers.#.in_proj_weight", &[3 * d, d]);
        add("attention_layers.#.in_proj_bias", &[3 * d]);
        for (name, weight) in [
            ("attention_layernorms.#", &[d][..]),
            ("attention_layers.#.out_proj", &[d, d]),
            ("forward_layernorms.#", &[d]),
            ("forward_layers.#.conv1", &[d, d, 1]),
            ("forward_layers.#.conv2", &[d, d, 1]),
        ] {
            add(&format!("{name}.weight"), weight);
            add(&format!("{name}.bias"), &[d]);
        }
    }
    all
}
