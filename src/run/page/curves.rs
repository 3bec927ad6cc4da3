//! Curves over rounds, each with its spread over seeds, as inline SVG that follows the colours of the page.

use crate::run::chart::{escape, number, tick};
use std::collections::BTreeMap;

/// The size of a picture. One that is made smaller to fit a phone would have letters too small to read, so that each figure is drawn in both.
struct Shape {
    class: &'static str,
    width: f64,
    height: f64,
    /// Left, right, top and bottom of the plot inside the picture.
    frame: [f64; 4],
}

/// The style sheet shows one of them.
const SHAPES: [Shape; 2] = [
    Shape { class: "desk", width: 760.0, height: 300.0, frame: [58.0, 748.0, 10.0, 258.0] },
    Shape { class: "phone", width: 360.0, height: 260.0, frame: [50.0, 352.0, 10.0, 216.0] },
];

/// Patterns of lines, so that they stay apart without colours.
const DASHES: [&str; 4] = ["", "7 4", "2 3", "10 3 2 3"];
/// Colours of the page.
const COLOURS: usize = 7;

/// A method's values over rounds, one map from round to value for each seed.
pub(super) struct Curve {
    pub name: String,
    pub seeds: Vec<BTreeMap<u64, f64>>,
    /// The best round, where one is to be marked.
    pub best: Option<u64>,
}

/// A value that does not change with rounds.
pub(super) struct Level {
    pub name: String,
    pub value: f64,
}

impl Curve {
    /// Round, mean, least and greatest value, for rounds that every seed has.
    fn points(&self) -> Points {
        let Some(first) = self.seeds.first() else { return Vec::new() };
        let whole = first.keys().filter(|round| self.seeds.iter().all(|seed| seed.contains_key(round)));
        whole
            .map(|round| {
                let all: Vec<f64> = self.seeds.iter().map(|seed| seed[round]).collect();
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
                (*round as f64, mean, least, most)
            })
            .filter(|point| point.1.is_finite())
            .collect()
    }
}

fn style(at: usize) -> String {
    let dash = DASHES[(at / COLOURS + at) % DASHES.len()];
    let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
    format!("stroke=\"var(--c{})\" stroke-width=\"2\" fill=\"none\"{dash}", at % COLOURS)
}

/// A figure of `curves` and `levels`; empty where there is nothing to draw.
pub(super) fn figure(title: &str, caption: &str, curves: &[Curve], levels: &[Level]) -> String {
    let drawn: Vec<_> = curves.iter().map(Curve::points).collect();
    if drawn.iter().all(Vec::is_empty) {
        return String::new();
    }
    let pictures: String = SHAPES.iter().map(|shape| picture(shape, title, curves, &drawn, levels)).collect();
    let names = curves.iter().map(|c| &c.name).chain(levels.iter().map(|l| &l.name)).enumerate();
    let legend: String = names
        .map(|(i, name)| {
            let line =
                format!("<svg viewBox=\"0 0 34 12\" aria-hidden=\"true\"><line x1=\"0\" x2=\"34\" y1=\"6\" y2=\"6\" {}/></svg>", style(i));
            format!("<li>{line}{}</li>", escape(name))
        })
        .collect();
    format!(
        "<figure><h3>{}</h3>\n{pictures}<ul class=\"legend\">{legend}</ul>\n<figcaption>{}</figcaption></figure>\n",
        escape(title),
        escape(caption)
    )
}

/// Round, mean, least and greatest value of a curve.
type Points = Vec<(f64, f64, f64, f64)>;

fn picture(shape: &Shape, title: &str, curves: &[Curve], drawn: &[Points], levels: &[Level]) -> String {
    let values = || drawn.iter().flatten().flat_map(|p| [p.2, p.3]).chain(levels.iter().map(|l| l.value));
    let (low, high) = values().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    // From zero where that costs less than half of the height.
    let low = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low };
    let step = tick(high - low);
    let (bottom, top) = ((low / step).floor() * step, ((high / step).ceil() * step).max(low + step));
    let right = drawn.iter().flatten().map(|p| p.0).fold(1.0, f64::max);
    let [x0, x1, y0, y1] = shape.frame;
    let x = |v: f64| x0 + v / right * (x1 - x0);
    let y = |v: f64| y1 - (v - bottom) / (top - bottom) * (y1 - y0);
    let Shape { class, width, height, .. } = shape;
    let mut svg = format!("<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n", escape(title));
    let mut level = bottom;
    while level <= top + step * 1e-6 {
        let h = y(level);
        svg += &format!("<line class=\"grid\" x1=\"{x0}\" x2=\"{x1}\" y1=\"{h:.1}\" y2=\"{h:.1}\"/>");
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n", x0 - 7.0, h + 4.5, number(level));
        level += step;
    }
    let across = tick(right).max(1.0);
    for mark in (0..).map(|i| f64::from(i) * across).take_while(|mark| *mark <= right) {
        svg += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x(mark), y1 + 18.0, number(mark));
    }
    svg += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">round</text>\n", (x0 + x1) / 2.0, y1 + 36.0);
    for (i, l) in levels.iter().enumerate() {
        let h = y(l.value);
        let line = style(curves.len() + i);
        svg += &format!(
            "<line x1=\"{x0}\" x2=\"{x1}\" y1=\"{h:.1}\" y2=\"{h:.1}\" {line}><title>{}: {}</title></line>\n",
            escape(&l.name),
            number(l.value)
        );
    }
    for (i, (curve, points)) in curves.iter().zip(drawn).enumerate() {
        if curve.seeds.len() > 1 {
            let up = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.3)));
            let down = points.iter().rev().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.2)));
            let area: Vec<String> = up.chain(down).collect();
            svg += &format!("<polygon fill=\"var(--c{})\" opacity=\".18\" points=\"{}\"/>\n", i % COLOURS, area.join(" "));
        }
        let line: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        svg += &format!("<polyline {} points=\"{}\"/>\n", style(i), line.join(" "));
        let best = points.iter().find(|p| Some(p.0 as u64) == curve.best);
        for p in points.iter().filter(|p| points.len() <= 60 || best.is_some_and(|b| b.0 == p.0)) {
            let is_best = best.is_some_and(|b| b.0 == p.0);
            let (r, more) = if is_best { (5.5, "; best round") } else { (2.6, "") };
            let tip = format!("{}, round {}: {}{more}", escape(&curve.name), number(p.0), number(p.1));
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{r}\" fill=\"var(--c{})\"><title>{tip}</title></circle>\n",
                x(p.0),
                y(p.1),
                i % COLOURS
            );
        }
    }
    svg + "</svg>\n"
}
