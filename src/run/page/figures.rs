//! The figures of a report: methods, tests, curves, by user and item, costs.

use super::curves::{Curve, Level, figure};
use super::groups::{Group, Run};
use super::table::Table;
use crate::Result;
use crate::data::{Dataset, Split};
use crate::eval::{self, Metric, Metrics, SelectMetric};
use crate::run::compare::{compare, ranks_of};
use crate::run::result::{RunResult, split_name};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Mean and sample standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, variance.sqrt())
}

/// `0.1234`, with `± 0.0012` over several seeds.
fn shown(values: &[f64]) -> String {
    match (values, spread(values)) {
        ([], _) => "-".into(),
        ([_], (mean, _)) => format!("{mean:.4}"),
        (_, (mean, deviation)) => format!("{mean:.4} ± {deviation:.4}"),
    }
}

/// The metric that the first run's settings select by.
fn selected(run: &Run) -> String {
    run.settings.eval.select.clone()
}

/// Popularity's ranks and metrics on a split.
fn popularity(run: &Run, data: &Dataset, split: Split) -> (Vec<u32>, Metrics) {
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let ranks = eval::popularity_ranks(data, run.settings.eval.mask, split, &users);
    let metrics = eval::metrics(&ranks, &run.settings.eval.k);
    (ranks, metrics)
}

/// The interval of a metric over users, from the ranks of each seed.
fn interval(seeds: &[&[u32]], metric: SelectMetric) -> String {
    let [low, high] = eval::interval(seeds, metric.metric, metric.k);
    format!("{low:.4} to {high:.4}")
}

/// Ranks of the test targets of each finished run.
fn test_ranks(group: &Group) -> Vec<Vec<u32>> {
    let finished = group.runs.iter().filter(|run| run.result.is_some());
    finished.filter_map(|run| ranks_of(&run.folder, Split::Test).ok().map(|(ranks, _)| ranks)).collect()
}

/// The table of methods, best values marked, with the interval of the selected metric.
pub(super) fn methods(groups: &[Group], data: Option<&Dataset>) -> Result<String> {
    let first = groups[0].first();
    let names: Vec<String> =
        ["HR", "NDCG", "MRR"].iter().flat_map(|m| first.settings.eval.k.iter().map(move |k| format!("{m}@{k}"))).collect();
    let select = selected(first);
    let metric = SelectMetric::parse("eval.select", &select)?;
    let columns: Vec<Vec<Vec<f64>>> = groups.iter().map(|g| names.iter().map(|name| g.scores(true, name)).collect()).collect();
    let best = |at: usize| columns.iter().map(|c| spread(&c[at]).0).fold(f64::MIN, f64::max);
    // What one looks for first stands to the left: a narrow page cuts off the rest until it is scrolled.
    let head = ["method".into(), "seeds".into(), format!("{select}, 95 % interval"), "best round".into()];
    let mut table = Table::new(head.into_iter().chain(names.iter().cloned()));
    if let Some(data) = data.filter(|_| groups.iter().all(|g| g.first().info.method != "popularity")) {
        let (ranks, found) = popularity(first, data, Split::Test);
        let figures = names.iter().map(|name| found.get(name).map_or("-".into(), |v| format!("{v:.4}")));
        let front = ["popularity".to_string(), "-".into(), interval(&[&ranks], metric), "-".into()];
        table.row(front.into_iter().chain(figures).map(|cell| (cell, false)));
    }
    for (group, values) in groups.iter().zip(&columns) {
        let ranks = test_ranks(group);
        let alike = ranks.windows(2).all(|pair| pair[0].len() == pair[1].len());
        let found = (!ranks.is_empty() && alike).then(|| interval(&ranks.iter().map(Vec::as_slice).collect::<Vec<_>>(), metric));
        let rounds: Vec<String> =
            group.runs.iter().filter_map(|run| run.result.as_ref()).map(|r| format!("{} of {}", r.best_round, r.rounds)).collect();
        let rounds = if rounds.is_empty() { "-".into() } else { rounds.join(", ") };
        let front = [group.name.clone(), group.runs.len().to_string(), found.unwrap_or("-".into()), rounds];
        let figures = values
            .iter()
            .enumerate()
            .map(|(at, values)| (shown(values), groups.len() > 1 && !values.is_empty() && spread(values).0 == best(at)));
        table.row(front.into_iter().map(|cell| (cell, false)).chain(figures));
        // A lone method has its validation below: what it was chosen by, beside what came of it.
        if groups.len() == 1 && first.result.is_some() {
            let front = [format!("{} (validation)", group.name), group.runs.len().to_string(), "-".into(), "-".into()];
            let figures = names.iter().map(|name| shown(&group.scores(false, name)));
            table.row(front.into_iter().chain(figures).map(|cell| (cell, false)));
        }
    }
    let caption = "Test, full ranking, the checkpoint that is best on validation. Mean and standard deviation over seeds; the interval is a bootstrap over users.";
    Ok(format!("<h2>Methods</h2>\n{}", table.html(caption)))
}

/// Paired tests of the first method against each other one, over the seeds that both have.
pub(super) fn tests(groups: &[Group]) -> Result<String> {
    let first = &groups[0];
    let head = ["B against A", "metric", "A", "B", "B - A", "95 % interval", "p", "seeds"].map(String::from);
    let mut table = Table::new(head);
    for other in &groups[1..] {
        let pairs: Vec<[PathBuf; 2]> = other
            .runs
            .iter()
            .filter_map(|a| first.runs.iter().find(|b| b.info.seed == a.info.seed).map(|b| (a, b)))
            .filter(|(a, b)| a.result.is_some() && b.result.is_some() && a.data == b.data)
            .map(|(a, b)| [a.folder.root().to_path_buf(), b.folder.root().to_path_buf()])
            .collect();
        if pairs.is_empty() {
            continue;
        }
        // Runs that were ranked with another mask do not compare; the table of methods stands without them.
        let Ok(found) = compare(&pairs, Split::Test) else { continue };
        for t in &found.tests {
            for (name, [a, b], difference, [low, high], p) in
                [("HR", t.hr, t.hr_difference, t.hr_interval, t.hr_p), ("NDCG", t.ndcg, t.ndcg_difference, t.ndcg_interval, t.ndcg_p)]
            {
                let p = if p < 0.001 { "< .001".to_string() } else { format!("{p:.3}") };
                let cells = [
                    format!("{} against {}", first.name, other.name),
                    format!("{name}@{}", t.k),
                    format!("{a:.4}"),
                    format!("{b:.4}"),
                    format!("{difference:+.4}"),
                    format!("{low:+.4} to {high:+.4}"),
                    p,
                    t.seeds.to_string(),
                ];
                table.row(cells.into_iter().map(|cell| (cell, false)));
            }
        }
    }
    let caption = "Differences of the same users, on test. An interval that holds 0 says that the users do not decide it.";
    Ok(if table.is_empty() { String::new() } else { format!("<h2>Paired tests</h2>\n{}", table.html(caption)) })
}

/// Validation and losses over rounds.
pub(super) fn curves(groups: &[Group], data: Option<&Dataset>) -> String {
    let first = groups[0].first();
    let select = selected(first);
    let curve = |group: &Group, value: &dyn Fn(&Run) -> std::collections::BTreeMap<u64, f64>, mark: bool| Curve {
        name: group.name.clone(),
        seeds: group.runs.iter().map(value).filter(|seed| !seed.is_empty()).collect(),
        best: group.first().result.as_ref().filter(|_| mark).map(|r| r.best_round),
    };
    let of = |metric: &str, mark: bool| -> Vec<Curve> { groups.iter().map(|g| curve(g, &|run| run.validations(metric), mark)).collect() };
    let found = data.map(|data| popularity(first, data, Split::Validation).1);
    let level = |metric: &str| {
        let value = found.as_ref().and_then(|found| found.get(metric));
        value.map(|value| Level { name: "popularity".into(), value }).into_iter().collect::<Vec<_>>()
    };
    let caption = "Mean over seeds, the band from the least to the greatest; the large dot is the round whose checkpoint is tested.";
    let mut html = figure(&format!("Validation {select}"), caption, &of(&select, true), &level(&select));
    let mut more = String::new();
    for name in first.settings.eval.k.iter().flat_map(|k| [format!("HR@{k}"), format!("NDCG@{k}")]).filter(|name| *name != select) {
        more += &figure(&format!("Validation {name}"), caption, &of(&name, true), &level(&name));
    }
    let number = |key: &'static str| move |run: &Run| run.values(|line| line.get(key)?.as_f64().filter(|x| *x != 0.0));
    for (title, key) in
        [("Loss of the next item", "rec_loss"), ("Loss of the contrast", "contrast_loss"), ("Privacy spent (epsilon)", "epsilon")]
    {
        let curves: Vec<Curve> = groups.iter().map(|g| curve(g, &number(key), false)).filter(|c| !c.seeds.is_empty()).collect();
        more += &figure(title, "Mean over clients of a round.", &curves, &[]);
    }
    if html.is_empty() && more.is_empty() {
        return String::new();
    }
    if !more.is_empty() {
        html += &format!("<details><summary>More curves: other metrics and losses</summary><div>{more}</div></details>\n");
    }
    format!("<h2>Over rounds</h2>\n{html}")
}

/// The hit rate by the length of users' histories and by the popularity of their targets.
pub(super) fn slices(groups: &[Group], data: &Dataset) -> Result<String> {
    let first = groups[0].first();
    let k = SelectMetric::parse("eval.select", &selected(first))?.k;
    let asked: Vec<Option<(usize, u32)>> = {
        let counts = data.train_counts();
        let of = |user| data.input_and_target(user, Split::Test).map(|(input, target)| (input.len(), counts[target as usize]));
        (0..data.users()).map(of).collect()
    };
    let ranks: Vec<(&Group, Vec<Vec<u32>>)> = groups.iter().map(|g| (g, test_ranks(g))).filter(|(_, ranks)| !ranks.is_empty()).collect();
    if ranks.is_empty() || ranks.iter().flat_map(|(_, all)| all).any(|ranks| ranks.len() != asked.len()) {
        return Ok(String::new());
    }
    let mut html = String::from("<h2>By user and item</h2>\n");
    for (what, caption, value) in [
        ("history length", format!("HR@{k} on test by the number of items that a user's history has."), 0),
        ("target's popularity", format!("HR@{k} on test by how often the target occurs in training."), 1),
    ] {
        let of = |entry: &(usize, u32)| if value == 0 { entry.0 as u64 } else { u64::from(entry.1) };
        let mut all: Vec<u64> = asked.iter().flatten().map(of).collect();
        all.sort_unstable();
        let Some(&most) = all.last() else { continue };
        // Five parts of about the same number of users, none of them empty.
        let cuts: BTreeSet<u64> = (1..5).map(|part| all[part * all.len() / 5]).chain([most + 1]).collect();
        let mut table = Table::new([what.to_string(), "users".into()].into_iter().chain(ranks.iter().map(|(g, _)| g.name.clone())));
        let mut low = 0;
        for high in cuts {
            let inside: Vec<usize> =
                (0..asked.len()).filter(|user| asked[*user].as_ref().is_some_and(|entry| (low..high).contains(&of(entry)))).collect();
            if !inside.is_empty() {
                let rate = |all: &Vec<Vec<u32>>| {
                    let each = all.iter().flat_map(|ranks| inside.iter().map(|user| Metric::Hr.value(ranks[*user], k)));
                    each.sum::<f64>() / (inside.len() * all.len()) as f64
                };
                let name = if high - low <= 1 { low.to_string() } else { format!("{low} to {}", high - 1) };
                let figures = ranks.iter().map(|(_, all)| (format!("{:.4}", rate(all)), false));
                table.row([(name, false), (inside.len().to_string(), false)].into_iter().chain(figures));
            }
            low = high;
        }
        html += &table.html(&caption);
    }
    Ok(html)
}

/// Where time, bytes and energy went.
pub(super) fn costs(groups: &[Group]) -> String {
    let head = [
        "method",
        "rounds",
        "seconds",
        "packing",
        "training",
        "adding",
        "client-epochs/s",
        "MB down",
        "MB up",
        "CPU kJ",
        "GPU kJ",
        "epsilon",
        "device",
    ];
    let mut table = Table::new(head.map(String::from));
    for run in groups.iter().flat_map(|g| g.runs.iter().map(move |run| (g, run))) {
        let (group, run) = run;
        if run.lines.is_empty() {
            continue;
        }
        let seconds = run.sum("seconds");
        let rate = if seconds > 0.0 { run.sum("client_epochs") / seconds } else { 0.0 };
        let kilojoules =
            |of: fn(&RunResult) -> Option<f64>| run.result.as_ref().and_then(of).map_or("-".to_string(), |j| format!("{:.2}", j * 1e-3));
        let epsilon = run.lines.last().and_then(|line| line.get("epsilon")?.as_f64());
        let name = if group.runs.len() > 1 { format!("{}, seed {}", group.name, run.info.seed) } else { group.name.clone() };
        let cells = [
            name,
            run.lines.len().to_string(),
            format!("{seconds:.1}"),
            format!("{:.1}", run.sum("pack_s")),
            format!("{:.1}", run.sum("train_s")),
            format!("{:.1}", run.sum("add_s")),
            if crate::config::methods::is_centralised(&run.info.method) { "-".into() } else { format!("{rate:.0}") },
            format!("{:.1}", run.sum("bytes_down") * 1e-6),
            format!("{:.1}", run.sum("bytes_up") * 1e-6),
            kilojoules(|r| r.cpu_joules),
            kilojoules(|r| r.gpu_joules),
            epsilon.map_or("-".into(), |e| format!("{e:.3}")),
            run.info.device.clone().unwrap_or("-".into()),
        ];
        table.row(cells.into_iter().map(|cell| (cell, false)));
    }
    let caption = format!(
        "Rounds without their {} and test. Energy is what the machine's processors (all programs) and the GPU count, where they do and may be asked.",
        split_name(Split::Validation)
    );
    if table.is_empty() { String::new() } else { format!("<h2>Time, bytes and energy</h2>\n{}", table.html(&caption)) }
}
