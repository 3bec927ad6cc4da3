//! `lumos report`: what the page holds, and how a browser shows it at two widths and in both colour schemes.

use crate::real;
use crate::sandbox::{Sandbox, small};
use std::path::PathBuf;
use std::process::Command;

pub fn page(sandbox: &Sandbox) -> String {
    for (method, seed) in [("lumos", "1"), ("lumos", "2"), ("fed-sasrec", "1"), ("fed-sasrec", "2")] {
        let (method_set, out) = (format!("method={method}"), format!("runs/{method}-{seed}"));
        sandbox.lumos(&["train", &small(), "--set", &method_set, "--seed", seed, "--out", &out]).done();
    }
    let runs = ["runs/lumos-1", "runs/lumos-2", "runs/fed-sasrec-1", "runs/fed-sasrec-2"];
    let said = sandbox.lumos(&[&["report"], &runs[..], &["--out", "report.html"]].concat()).done();
    assert!(said.contains("report: report.html"), "{said}");
    String::from_utf8(sandbox.read("report.html")).unwrap()
}

#[test]
fn a_page_holds_methods_tests_curves_lists_and_settings() {
    let sandbox = Sandbox::new();
    let html = page(&sandbox);
    for part in [
        "lumos and fed-sasrec on small",
        "4 runs of 2 methods",
        "Paired tests",
        "Validation NDCG@10",
        "<polygon",
        "best round",
        "popularity",
        "history length",
        "Gini",
        "Future (view)",
        "fed-sasrec recommends",
        "Time, bytes and energy",
        "Settings that differ",
        "loss.contrast",
        "(method)",
    ] {
        assert!(html.contains(part), "`{part}` is missing");
    }
    for part in ["http://", "https://", "<script", "NaN"] {
        assert!(!html.contains(part), "`{part}` is in the page");
    }
    // A run alone, one that is not finished, and one whose data set is gone.
    sandbox.lumos(&["report", "runs/lumos-1", "--out", "one.html"]).done();
    std::fs::remove_file(sandbox.path().join("runs/lumos-1/result.json")).unwrap();
    std::fs::rename(sandbox.path().join("data"), sandbox.path().join("gone")).unwrap();
    sandbox.lumos(&["report", "runs/lumos-1", "--out", "one.html"]).done();
    let one = String::from_utf8(sandbox.read("one.html")).unwrap();
    assert!(one.contains("is not finished") && one.contains("is not where the runs were trained"), "{one}");
    sandbox.lumos(&["report", "runs/none"]).refused(1, &["runs/none"]);
    sandbox.lumos(&["report", "runs/lumos-1", "--out", "runs"]).refused(1, &["is a folder"]);
}

/// Noise is drawn by the seed: the histories of two seeds differ, what is to be found does not.
#[test]
fn seeds_of_a_method_with_noise_are_one_method() {
    let sandbox = Sandbox::new();
    let mut runs = Vec::new();
    for (noise, seed) in [("0", "1"), ("0.3", "1"), ("0.3", "2")] {
        let (set, out) = (format!("noise.share={noise}"), format!("runs/noise-{noise}-{seed}"));
        let words = ["train", &small(), "--set", "method=fed-sasrec", "--set", &set, "--seed", seed, "--out", &out];
        sandbox.lumos(&words).done();
        runs.push(out);
    }
    let words: Vec<&str> = ["report", "--out", "report.html"].into_iter().chain(runs.iter().map(String::as_str)).collect();
    sandbox.lumos(&words).done();
    let html = String::from_utf8(sandbox.read("report.html")).unwrap();
    assert!(html.contains("3 runs of 2 methods") && html.contains("Paired tests"), "{html}");
    assert!(!html.contains("do not compare"));
}

#[test]
fn hostile_names_stay_text() {
    let sandbox = Sandbox::new();
    let mut log = "user_id,item_id,timestamp\n".to_string();
    for user in 0..20 {
        (0..6).for_each(|step| log += &format!("\"<b>u{user}\",\"<i>{}\",{step}\n", (user + step) % 12));
    }
    sandbox.write("log.csv", log.as_bytes());
    let mut items = "item_id,title\n".to_string();
    (0..12).for_each(|item| items += &format!("<i>{item},\"<script>alert({item})</script>\"\n"));
    sandbox.write("items.csv", items.as_bytes());
    sandbox.lumos(&["data", "prepare", "--format", "csv", "--inter", "log.csv", "--items", "items.csv", "--out", "set"]).done();
    sandbox
        .lumos(&["train", &small(), "--data", "set", "--set", "method=fed-sasrec", "--set", "loss.negatives=5", "--out", "<em>run"])
        .done();
    sandbox.lumos(&["report", "<em>run", "--out", "page.html"]).done();
    let html = String::from_utf8(sandbox.read("page.html")).unwrap();
    for raw in ["<script>", "<b>u", "<i>", "<em>"] {
        assert!(!html.contains(raw), "`{raw}` is in the page as it came");
    }
    assert!(html.contains("&lt;script&gt;"), "titles are shown");
}

/// The first program of `names` that is installed.
pub fn installed(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = |folder: PathBuf| names.iter().map(move |name| folder.join(name)).collect::<Vec<_>>();
    std::env::split_paths(&path).flat_map(all).find(|file| file.is_file())
}

/// The first browser that is installed.
pub fn browser() -> Option<PathBuf> {
    installed(&["chromium", "chromium-browser", "google-chrome", "chrome"])
}

/// Measures a page inside a frame of the width that is asked for, and writes what it finds into the outer page.
const MEASURE: &str = "<script>addEventListener('load',()=>{document.querySelectorAll('details').forEach(d=>d.open=true);\
const w=document.documentElement;const wide=[...document.querySelectorAll('p,h1,h2,h3,figure,svg,summary,li')]\
.filter(e=>e.getBoundingClientRect().right>w.clientWidth+1&&!e.closest('.wide')).length;\
const shown=[...document.querySelectorAll('figure svg[role=img]')].filter(s=>s.getBoundingClientRect().width);\
const small=shown.filter(s=>13*s.getBoundingClientRect().width/s.viewBox.baseVal.width<11).length;\
const rows=[...document.querySelectorAll('tbody tr')].filter(r=>r.cells.length!==r.closest('table').rows[0].cells.length).length;\
const tall=[...document.querySelectorAll('th,td')].filter(c=>c.getBoundingClientRect().height>150).length;\
const texts=[...document.querySelectorAll('figure svg[role=img]')].filter(s=>{const b=s.getBoundingClientRect();\
return [...s.querySelectorAll('text')].some(t=>{const r=t.getBoundingClientRect();return r.left<b.left-1||r.right>b.right+1||r.bottom>b.bottom+1})}).length;\
parent.postMessage([w.scrollWidth,w.clientWidth,wide,texts,shown.flatMap(s=>[...s.querySelectorAll('polyline')]).length,\
document.querySelectorAll('table').length,getComputedStyle(document.body).backgroundColor,small,rows,tall].join(';'),'*')})</script>";

#[test]
fn a_browser_shows_it_whole_at_both_widths_and_schemes() {
    let Some(browser) = browser() else {
        real::skip::<()>("no chromium is installed");
        return;
    };
    let sandbox = Sandbox::new();
    let html = page(&sandbox);
    sandbox.write("measured.html", html.replace("</body>", &format!("{MEASURE}</body>")).as_bytes());
    let file = |name: &str| format!("file://{}", sandbox.path().join(name).display());
    for (width, dark) in [(1280, false), (1280, true), (390, false), (390, true)] {
        let outer = format!(
            "<!doctype html><style>body{{margin:0}}</style><title>-</title><iframe src=\"measured.html\" style=\"border:0\" width=\"{width}\" height=\"3000\"></iframe>\
             <script>addEventListener('message',e=>document.title=e.data)</script>"
        );
        sandbox.write("outer.html", outer.as_bytes());
        let scheme = format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 });
        let profile = format!("--user-data-dir={}", sandbox.path().join("profile").display());
        let common =
            ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files", &scheme, &profile];
        let out = Command::new(&browser)
            .args(common)
            .args(["--window-size=1400,3000", "--virtual-time-budget=5000", "--dump-dom", &file("outer.html")])
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&out.stdout);
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
        let found: Vec<&str> = title.split(';').collect();
        assert_eq!(found.len(), 10, "{width} {dark}: {title}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(found[0], found[1], "the page is as wide as its window: {title}");
        assert_eq!((found[2], found[3]), ("0", "0"), "nothing reaches beyond the page or its picture: {title}");
        assert!(found[4].parse::<u32>().unwrap() >= 4 && found[5].parse::<u32>().unwrap() >= 6, "curves and tables: {title}");
        assert_eq!(found[6] == "rgb(255, 255, 255)", !dark, "{title}");
        assert_eq!(
            (found[7], found[8]),
            ("0", "0"),
            "letters of pictures are at least 11 pixels high, rows are as long as their head: {title}"
        );
    }
}
