//! A text depends on its request alone.

use super::common::{Loaded, greedy, logits, reference, texts};
use lumos::base::rng::{Purpose, Stream};
use lumos::llm::{Constraint, EngineOptions, Finish, Generate, Key, Request, Sampling};
use std::sync::atomic::{AtomicUsize, Ordering};

fn model(threads: usize) -> Loaded {
    Loaded::random(&reference()["qwen3"]["config"], threads)
}

const SAMPLING: Sampling = Sampling { temperature: 0.9, top_k: 40, top_p: 0.95, repetition_penalty: 1.1 };

/// 64 prompts of 1 to 50 tokens; two in three begin with the same 21 tokens.
fn requests() -> Vec<Request> {
    let mut stream = Stream::new(1, Purpose::Bench, 0, 9);
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| 3 + stream.below(90) as u32).collect() };
    let shared = draw(21);
    (0..64)
        .map(|i| {
            let mut prompt = if i % 3 == 0 { Vec::new() } else { shared.clone() };
            prompt.extend(draw(1 + i % 29));
            let key = Key { seed: 11, user: 1000 + i as u64, view: i as u64 % 3 };
            Request { prompt, max_new: 1 + (i * 7) % 23, sampling: SAMPLING, key, stop: vec![2, 5], constraint: None }
        })
        .collect()
}

/// Texts of the requests in the order `order`, put back into their own order.
fn in_order(loaded: &Loaded, options: EngineOptions, order: &[usize], share: Option<usize>) -> Vec<Vec<u32>> {
    let mut engine = loaded.engine(options);
    if let Some(n) = share {
        let prefix = requests()[1].prompt[..n].to_vec();
        assert_eq!(engine.share(&prefix).unwrap(), n);
        assert_eq!(engine.share(&prefix).unwrap(), 0, "a prefix is computed once");
    }
    let mut all: Vec<Option<Request>> = requests().into_iter().map(Some).collect();
    let shuffled = order.iter().map(|i| all[*i].take().unwrap()).collect();
    let mut out = vec![Vec::new(); order.len()];
    for (text, i) in texts(&mut engine, shuffled).into_iter().zip(order) {
        out[*i] = text;
    }
    out
}

#[test]
fn batch_order_threads_and_shared_prefixes_leave_every_bit() {
    let straight: Vec<usize> = (0..64).collect();
    let mut shuffled = straight.clone();
    Stream::new(2, Purpose::Bench, 0, 0).shuffle(&mut shuffled);
    let one = model(1);
    let alone = in_order(&one, EngineOptions { slots: 1, ..Default::default() }, &straight, None);
    assert!(alone.iter().map(Vec::len).sum::<usize>() > 300 && alone.iter().any(|t| t.len() < 3), "texts of many lengths");
    let three = model(3);
    for (slots, step_tokens) in [(7, 512), (64, 512), (64, 5), (7, 1)] {
        for (loaded, order) in [(&one, &straight), (&three, &shuffled)] {
            // A prefix that ends inside a block, one that fills blocks, one longer than some prompts.
            for share in [None, Some(21), Some(16), Some(22)] {
                let options = EngineOptions { slots, step_tokens, ..Default::default() };
                assert!(in_order(loaded, options, order, share) == alone, "{slots} slots, {step_tokens} rows a step, {share:?} shared");
            }
        }
    }
}

#[test]
fn draws_belong_to_user_view_and_seed() {
    let loaded = model(2);
    let mut engine = loaded.engine(EngineOptions::default());
    let keys = [(1, 5, 0), (1, 5, 0), (2, 5, 0), (1, 6, 0), (1, 5, 1), (1, 5 + (1 << 32), 0)];
    let hot = Sampling { temperature: 1.5, ..Sampling::GREEDY };
    let requests = keys.map(|(seed, user, view)| Request { sampling: hot, key: Key { seed, user, view }, ..greedy(vec![1, 9, 4], 16) });
    let texts = texts(&mut engine, requests.into());
    assert_eq!(texts[0], texts[1]);
    for other in &texts[2..] {
        assert_ne!(&texts[0], other);
    }
}

#[test]
fn a_small_cache_makes_requests_wait_and_a_large_request_is_refused_alone() {
    let loaded = model(2);
    let prompts: Vec<Vec<u32>> = (0..9).map(|i| vec![3 + i; 20]).collect();
    let roomy = texts(&mut loaded.engine(EngineOptions::default()), prompts.iter().map(|p| greedy(p.clone(), 10)).collect());
    // ChunkMemory for two such texts at a time.
    let mut engine = loaded.engine(EngineOptions { slots: 8, cache_tokens: 64, ..Default::default() });
    let mut requests: Vec<Request> = prompts.iter().map(|p| greedy(p.clone(), 10)).collect();
    requests.insert(4, greedy(vec![3; 60], 5));
    requests.insert(2, greedy(vec![3; 600], 5));
    requests.push(greedy(vec![], 5));
    requests.push(greedy(vec![96], 5));
    requests.push(Request { sampling: Sampling { top_p: 2.0, ..SAMPLING }, ..greedy(vec![3], 5) });
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let report = engine
        .generate(&mut requests.into_iter(), &mut |done| {
            match done.outcome {
                Ok(text) => good.push((done.index, text.tokens)),
                Err(e) => bad.push((done.index, e.to_string())),
            }
            Ok(())
        })
        .unwrap();
    good.sort();
    bad.sort();
    assert_eq!(good.into_iter().map(|(_, t)| t).collect::<Vec<_>>(), roomy);
    let reasons: Vec<(usize, &str)> = bad.iter().map(|(i, e)| (*i, e.as_str())).collect();
    for ((index, reason), (expected, part)) in
        reasons.iter().zip([(2, "longest sequence (128"), (5, "the cache (64"), (11, "needs a prompt"), (12, "token 96"), (13, "top-p")])
    {
        assert_eq!(*index, expected);
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!((report.texts, report.refused), (9, 5));
    assert_eq!(report.cache_use, 1.0);
    assert!(engine.share(&[3; 70]).unwrap_err().to_string().contains("does not fit"));
}

#[test]
fn an_error_of_the_listener_stops_and_frees_everything() {
    let loaded = model(2);
    let mut engine = loaded.engine(EngineOptions { slots: 4, cache_tokens: 128, ..Default::default() });
    let all = || (0..20).map(|i| greedy(vec![3 + i; 9], 12)).collect::<Vec<_>>();
    let mut seen = 0;
    let stopped = engine.generate(&mut all().into_iter(), &mut |_| {
        seen += 1;
        if seen == 3 { Err(lumos::Error::Interrupted("enough".into())) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(lumos::Error::Interrupted(_))));
    assert_eq!(seen, 3);
    let again = texts(&mut engine, all());
    assert_eq!(again, texts(&mut loaded.engine(EngineOptions::default()), all()));
}

#[test]
fn the_report_counts_every_token_once() {
    let loaded = model(2);
    let mut engine = loaded.engine(EngineOptions { slots: 5, step_tokens: 13, ..Default::default() });
    let prefix: Vec<u32> = (0..37).map(|i| 3 + i % 50).collect();
    engine.share(&prefix).unwrap();
    let requests: Vec<Request> = (0..12)
        .map(|i| {
            let mut prompt = prefix.clone();
            prompt.extend(vec![5 + i; 1 + i as usize]);
            Request { stop: Vec::new(), ..greedy(prompt, 8) }
        })
        .collect();
    let mut lengths = Vec::new();
    let report = engine
        .generate(&mut requests.into_iter(), &mut |done| {
            let text = done.outcome?;
            assert_eq!(text.finish, Finish::Length);
            lengths.push(text.tokens.len());
            Ok(())
        })
        .unwrap();
    assert_eq!(lengths, [8; 12]);
    assert_eq!(report.prompt_tokens, (1..=12).sum::<u64>());
    assert_eq!(report.shared_tokens, 12 * 37);
    assert_eq!(report.output_tokens, 12 * 8);
    // The last token of a text is never computed.
    assert_eq!(report.rows, report.prompt_tokens + 12 * 7);
    assert_eq!(report.padded_rows, 0.0);
    assert!(report.padded_keys > 0.0 && report.padded_keys < 0.3, "{}", report.padded_keys);
    assert!(report.first_token_seconds <= report.seconds);
}

/// Allows the tokens of a script, several at some places.
struct Script(Vec<Vec<u32>>, AtomicUsize, Vec<u32>);

impl Constraint for Script {
    fn allowed(&self, out: &mut Vec<u32>, biases: &mut Vec<f32>) {
        out.clear();
        biases.clear();
        out.extend(self.0.get(self.1.load(Ordering::Relaxed)).into_iter().flatten());
    }
    fn accept(&mut self, token: u32) {
        let at = self.1.fetch_add(1, Ordering::Relaxed);
        assert!(self.0[at].contains(&token));
    }
    fn items(&self) -> &[u32] {
        &self.2
    }
}

#[test]
fn tokens_without_an_alternative_are_taken_at_once_and_change_nothing() {
    let loaded = model(2);
    let script = vec![vec![7], vec![8], vec![3, 9, 20], vec![10], vec![11], vec![4, 5, 6, 7, 40], vec![2], vec![30]];
    let prompt = vec![1, 12, 13, 14];
    // By hand: the likeliest of the allowed, one token at a time.
    let mut by_hand: Vec<u32> = Vec::new();
    for allowed in &script {
        let mut whole = prompt.clone();
        whole.extend(&by_hand);
        let one = Request { constraint: Some(Box::new(Script(vec![allowed.clone()], AtomicUsize::new(0), vec![]))), ..greedy(whole, 1) };
        by_hand.extend(&texts(&mut loaded.engine(EngineOptions::default()), vec![one])[0]);
    }
    let request = |max_new| Request {
        constraint: Some(Box::new(Script(script.clone(), AtomicUsize::new(0), vec![77]))),
        ..greedy(prompt.clone(), max_new)
    };
    let mut engine = loaded.engine(EngineOptions { step_tokens: 3, ..Default::default() });
    let mut ends = Vec::new();
    let report = engine
        .generate(&mut [request(50), request(8), request(5)].into_iter(), &mut |done| {
            ends.push((done.index, done.outcome?));
            Ok(())
        })
        .unwrap();
    ends.sort_by_key(|e| e.0);
    assert_eq!(ends[0].1.tokens, by_hand);
    assert_eq!((ends[0].1.finish, ends[0].1.items.as_slice()), (Finish::Complete, &[77][..]));
    assert_eq!(ends[1].1.tokens, by_hand);
    assert_eq!((&ends[2].1.tokens[..], ends[2].1.finish), (&by_hand[..5], Finish::Length));
    assert_eq!(report.forced_tokens, 6 + 6 + 4);
}

#[test]
fn texts_are_scored_as_their_tokens_would_be_one_by_one() {
    let loaded = model(2);
    let mut stream = Stream::new(4, Purpose::Bench, 0, 0);
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| 3 + stream.below(90) as u32).collect() };
    // A start of one token, one that ends inside a block, one whose tokens but the last fill blocks.
    for start in [1, 21, 33] {
        let start = draw(start);
        let written: Vec<Vec<u32>> = [5, 1, 0, 30, 2, 17].map(&mut draw).into();
        let prompts: Vec<Vec<u32>> = written.iter().flat_map(|t| (0..t.len()).map(|n| [&start, &t[..n]].concat())).collect();
        let expected: Vec<f32> =
            logits(&loaded.network, &loaded.ops, &prompts).iter().zip(written.iter().flatten()).map(|(all, t)| all[*t as usize]).collect();
        for cache_tokens in [0, 160] {
            let mut engine = loaded.engine(EngineOptions { slots: 3, cache_tokens, ..Default::default() });
            assert_eq!(engine.logits_of(&start, &written).unwrap(), expected, "{} tokens before, {cache_tokens}", start.len());
            assert_eq!(engine.logits_of(&start, &written).unwrap(), expected, "a second time");
        }
    }
    let mut small = loaded.engine(EngineOptions { slots: 1, cache_tokens: 32, ..Default::default() });
    for (start, text) in [(draw(20), draw(40)), (draw(500), draw(40)), (vec![], draw(2)), (vec![99_999], draw(2)), (draw(2), vec![99_999])]
    {
        assert!(small.logits_of(&start, &[text]).is_err());
    }
    // What failed has given back its blocks.
    assert_eq!(small.logits_of(&draw(9), &[draw(4)]).unwrap().len(), 4);
}
