//! The examples do what they say.

#[path = "../../examples/federated_run.rs"]
mod federated_run;
#[path = "../../examples/own_backbone.rs"]
mod own_backbone;
#[path = "../../examples/own_generator.rs"]
mod own_generator;
#[path = "../../examples/own_objective.rs"]
mod own_objective;
#[path = "../../examples/own_protocol.rs"]
mod own_protocol;
#[path = "../../examples/own_reader.rs"]
mod own_reader;
#[path = "../../examples/own_regulariser.rs"]
mod own_regulariser;
#[path = "../../examples/own_rule.rs"]
mod own_rule;
#[cfg(feature = "llm")]
#[path = "../../examples/write_text.rs"]
mod write_text;

#[test]
fn a_federated_run_learns_something() {
    let folder = tempfile::tempdir().unwrap();
    let hit_rate = federated_run::run(folder.path()).unwrap();
    // Ten of 120 items by chance: 0.083.
    assert!((0.05..=1.0).contains(&hit_rate), "{hit_rate}");
}

#[test]
fn a_reader_of_ones_own_reads_and_its_name_is_known_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baskets.txt");
    let line = |u: usize| format!("u{u}: {}\n", (0..6).map(|i| format!("i{}", (u + i) % 9)).collect::<Vec<_>>().join(", "));
    std::fs::write(&file, (0..20).map(line).collect::<String>()).unwrap();
    assert_eq!(own_reader::run(&file, folder.path()).unwrap(), (20, 9));
    let again = own_reader::run(&file, folder.path()).unwrap_err();
    assert!(again.to_string().contains("baskets") && again.kind() == lumos::ErrorKind::Usage, "{again}");
    let text = lumos::load_settings(None, &["data.format=baskest".into()]).unwrap_err().to_string();
    assert!(text.contains("did you mean `baskets`"), "{text}");
}

#[test]
fn a_rule_of_ones_own_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    assert!(own_rule::run(folder.path()).unwrap().is_finite());
    let text = lumos::federation::rules::build(&["timid share=2".into()]).err().unwrap().to_string();
    assert!(text.contains("a share above 0"), "{text}");
}

#[test]
fn a_protocol_of_ones_own_trains_and_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let hit_rate = own_protocol::run(folder.path()).unwrap();
    // Ten of 80 items by chance: 0.125, less what a user has met.
    assert!((0.1..=1.0).contains(&hit_rate), "{hit_rate}");
    let text = lumos::load_settings(None, &["federation.protocol=conuts".into()]).unwrap_err().to_string();
    assert!(text.contains("did you mean `counts`"), "{text}");
}

#[test]
fn a_backbone_of_ones_own_learns_and_its_name_is_known_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let hit_rate = own_backbone::run(folder.path()).unwrap();
    // Ten of 80 items by chance: 0.125.
    assert!((0.16..=1.0).contains(&hit_rate), "{hit_rate}");
    assert!(own_backbone::run(folder.path()).unwrap_err().to_string().contains("already"));
    let text = lumos::load_settings(None, &["model.backbone=markof".into()]).unwrap_err().to_string();
    assert!(text.contains("did you mean `markov`") && text.contains("bert4rec, markov"), "{text}");
}

#[test]
fn a_term_of_ones_own_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let [first, last] = own_objective::run(folder.path()).unwrap();
    assert!(last < first, "{first}, then {last}");
    for (entry, part) in
        [("two-ahed", "did you mean `two-ahead`"), ("two-ahead every=0", "a whole number from 1"), ("two-ahead k=1", "every")]
    {
        let text = lumos::load_settings(None, &[format!("loss.terms=[\"{entry}\"]")]).unwrap_err().to_string();
        assert!(text.contains(part) && text.contains("loss.terms"), "{entry}: {text}");
    }
}

#[test]
fn a_generator_of_ones_own_writes_views() {
    let folder = tempfile::tempdir().unwrap();
    let ([first, last], views) = own_generator::run(folder.path()).unwrap();
    assert!(last < first, "{first}, then {last}");
    let history = views.paraphrase.len();
    assert!(views.future.len() > history && views.counterfactuals.iter().all(|c| c.len() == history));
    let text = lumos::load_settings(None, &["views.generator=fasion".into()]).unwrap_err().to_string();
    assert!(text.contains("did you mean `fashion`"), "{text}");
}

#[test]
fn a_term_with_a_gradient_of_its_own_does_its_work_and_is_refused_where_it_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let (error, [without, with]) = own_regulariser::run(folder.path()).unwrap();
    assert!(error < 1e-2, "{error}");
    assert!(with < 0.7 * without, "scores lie {without} from 0 without the term and {with} with it");
    let refused = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        lumos::load_settings(None, &sets).unwrap_err().to_string()
    };
    for (sets, parts) in [
        (&["loss.terms=[\"activaton\"]"][..], &["did you mean `activation`"][..]),
        (&["loss.terms=[\"activation wieght=1\"]"], &["did you mean `weight`"]),
        (&["loss.terms=[\"activation weight=0\"]"], &["wanted above 0"]),
        (&["loss.terms=[\"activation\", \" activation weight=1\"]"], &["lists `activation` twice"]),
        // The kernel that trains whole visits knows the terms of LUMOS alone, and so does this protocol.
        (&["method=fed-sasrec", "loss.terms=[\"activation\"]", "gpu.resident=on"], &["gpu.resident", "loss.terms"]),
        (&["loss.terms=[\"activation\"]", "method=ptf-fsr"], &["loss.terms", "ptf-fsr", "wanted none"]),
    ] {
        let message = refused(sets);
        assert!(parts.iter().all(|part| message.contains(part)), "{sets:?}: {message}");
    }
    // Settings that were filled by hand and not validated.
    let mut settings = lumos::Settings::default();
    settings.loss.terms = vec!["activaton".into()];
    let error = lumos::Validated::new(settings).err().unwrap();
    assert!(error.kind() == lumos::ErrorKind::Setting && error.to_string().contains("activation"), "{error}");
}

#[cfg(feature = "llm")]
#[test]
fn text_is_written_by_a_local_model() {
    let Some(model) = crate::real::tinystories() else { return };
    let text = write_text::run(&model, "Once upon a time, ").unwrap();
    assert!(text.len() > 20, "{text}");
    assert_eq!(write_text::run(&model, "Once upon a time, ").unwrap(), text, "greedy");
}
