//! `report.html`: one self-contained page about a run.

use super::chart::{ROUNDS, Series, escape, line_chart};
use super::folder::RunInfo;
use super::result::{RunResult, diverged, masked_targets};
use crate::config::{Settings, flat};
use serde_json::Value;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:780px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}\
th,td{text-align:right;padding:.2rem .8rem;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}\
svg{width:100%;height:auto;font:12px system-ui,sans-serif;fill:#444}.grid{stroke:#e4e4e4}pre{background:#f6f6f6;padding:.8rem;overflow-x:auto}";

/// The page; `notice` is what a reader should know before the figures.
pub(super) fn html(settings: &Settings, info: &RunInfo, result: &RunResult, lines: &[Value], notice: Option<&str>) -> String {
    let title = format!("{} on {}", escape(&result.method), escape(&result.data));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head><body>\n"
    );
    page += &format!("<h1>{title}</h1>\n<p>{}</p>\n", escape(&summary(info, result)));
    if let Some(text) = diverged(result) {
        page += &format!("<p>{}.</p>\n", escape(&text));
    }
    if let Some(notice) = notice {
        page += &format!("<p><strong>Note.</strong> {}.</p>\n", escape(notice));
    }
    page += "<h2>Full ranking of the best checkpoint</h2>\n";
    page += &table(settings, result);
    let every = |key: &'static str| move |l: &Value| l.get(key).and_then(Value::as_f64);
    for metric in ["HR", "NDCG", "MRR"] {
        let series: Vec<Series> = settings
            .eval
            .k
            .iter()
            .map(|k| {
                let name = format!("{metric}@{k}");
                let points = curve(lines, |l| l.get("valid")?.get(&name)?.as_f64());
                Series { name, points }
            })
            .collect();
        page += &section(&format!("Validation {metric}"), &series);
    }
    let mut losses = vec![Series { name: "next item".into(), points: curve(lines, every("rec_loss")) }];
    let contrast = curve(lines, |l| every("contrast_loss")(l).filter(|loss| *loss != 0.0));
    if !contrast.is_empty() {
        losses.push(Series { name: "contrast".into(), points: contrast });
    }
    page += &section("Loss of a client", &losses);
    let speed = curve(lines, |l| Some(l.get("client_epochs")?.as_f64()? / l.get("seconds")?.as_f64()?));
    page += &section("Client-epochs per second", &[Series { name: "speed".into(), points: speed }]);
    page += "<h2>Settings</h2>\n<pre>";
    for (key, value) in flat(settings).unwrap_or_default() {
        page += &escape(&format!("{key} = {value}\n"));
    }
    page + "</pre>\n</body></html>\n"
}

fn summary(info: &RunInfo, result: &RunResult) -> String {
    let m = &info.machine;
    let machine = if m.cpu.is_empty() { m.platform.clone() } else { format!("{} ({})", m.cpu, m.platform) };
    let when = info.ended.as_deref().unwrap_or("not finished");
    let commit = m.commit.as_deref().map_or(String::new(), |c| format!(", commit {c}"));
    let device = info.device.as_deref().map_or(String::new(), |d| format!(", device {d}"));
    let tail = format!(
        "seed {}; {machine}, {} threads{device}; lumos {}{commit}; started {}, ended {when}",
        info.seed, info.threads, m.version, info.started
    );
    if result.rounds == 0 {
        return format!("Nothing is trained; {tail}.");
    }
    format!(
        "{} rounds (ended by {}), best on validation {} at round {}; {:.1} s of training, {:.0} client-epochs per second; {tail}.",
        result.rounds, result.ended_by, result.select, result.best_round, result.train_seconds, result.client_epochs_per_s
    )
}

fn table(settings: &Settings, result: &RunResult) -> String {
    let names: Vec<String> = ["HR", "NDCG", "MRR"].iter().flat_map(|m| settings.eval.k.iter().map(move |k| format!("{m}@{k}"))).collect();
    let mut html = String::from("<table><tr><th></th><th>validation</th><th>test</th></tr>\n");
    for name in names {
        let cell = |scores: &super::Scores| scores.get(&name).and_then(Value::as_f64).map_or("-".into(), |v| format!("{v:.4}"));
        html += &format!("<tr><td>{name}</td><td>{}</td><td>{}</td></tr>\n", cell(&result.validation), cell(&result.test));
    }
    if let Some([validation, test]) = masked_targets(result) {
        html += &format!("<tr><td>masked targets</td><td>{validation}</td><td>{test}</td></tr>\n");
    }
    html + "</table>\n"
}

fn curve(lines: &[Value], value: impl Fn(&Value) -> Option<f64>) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|l| Some((l.get("round")?.as_f64()?, value(l)?))).collect()
}

fn section(title: &str, series: &[Series]) -> String {
    match line_chart(title, ROUNDS, series) {
        svg if svg.is_empty() => svg,
        svg => format!("<h2>{title}</h2>\n{svg}"),
    }
}
