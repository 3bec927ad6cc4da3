//! Line charts as inline SVG.

use crate::base::clean;

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Least width of a picture; one with long names is wider.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Left, right, top and bottom of the plot inside the picture.
const FRAME: [f64; 4] = [76.0, 588.0, 12.0, 222.0];

/// A named line of `(x, y)` points.
pub(super) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The axis across.
#[derive(Clone, Copy)]
pub(super) struct Across<'a> {
    pub name: &'a str,
    /// Powers of ten at equal distances.
    pub log: bool,
}

/// Rounds, evenly.
pub(super) const ROUNDS: Across<'static> = Across { name: "round", log: false };

/// A picture by itself, as a file.
pub(super) fn document(svg: &str) -> String {
    let style = "svg{font:12px system-ui,sans-serif;fill:#444;background:#fff}.grid{stroke:#e4e4e4}";
    let width = svg.split("viewBox=\"0 0 ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("720");
    let head = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\" ");
    svg.replacen("<svg ", &head, 1).replacen(
        ">\n",
        &format!("><style>{style}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"),
        1,
    )
}

/// An SVG of `series` in `up` over what `across` says; empty where there is nothing to draw.
pub(super) fn line_chart(label: &str, up: &str, across: Across, series: &[Series]) -> String {
    let drawn = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite() && (!across.log || p.0 > 0.0);
    let points = || series.iter().flat_map(|s| &s.points).filter(|p| drawn(p));
    if points().count() == 0 {
        return String::new();
    }
    let top = points().map(|p| p.1).fold(f64::MIN, f64::max);
    let bottom = points().map(|p| p.1).fold(0.0, f64::min);
    let step = tick(top - bottom);
    let top = if top > bottom { (top / step).ceil() * step } else { bottom + 1.0 };
    let right = points().map(|p| p.0).fold(f64::MIN_POSITIVE, f64::max);
    // With everything at 0 there is an axis all the same.
    let right = if !across.log && right == f64::MIN_POSITIVE { 1.0 } else { right };
    // On a logarithmic axis from the power of ten below the first point.
    let decade = points().map(|p| p.0.log10().floor()).fold(f64::MAX, f64::min);
    let [x0, x1, y0, y1] = FRAME;
    let decades = (right.log10() - decade).max(f64::MIN_POSITIVE);
    let x = |v: f64| x0 + (if across.log { (v.log10() - decade) / decades } else { v / right }) * (x1 - x0);
    let y = |v: f64| y1 - (v - bottom) / (top - bottom) * (y1 - y0);

    // Some seven units a letter, behind the mark of the line.
    let names = series.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
    let width = WIDTH.max(x1 + 48.0 + 7.0 * names as f64);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(label));
    let mut level = (bottom / step).ceil() * step;
    while level <= top + step * 1e-6 {
        let (h, text) = (y(level), number(level));
        svg += &format!("<line class=\"grid\" x1=\"{x0}\" x2=\"{x1}\" y1=\"{h:.1}\" y2=\"{h:.1}\"/>");
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>\n", x0 - 6.0, h + 4.0);
        level += step;
    }
    let marks: Vec<f64> = if across.log {
        (decade as i32..).map(|power| 10f64.powi(power)).take_while(|mark| *mark <= right).collect()
    } else {
        let step = if right > 1.0 { tick(right).max(1.0) } else { tick(right) };
        (0..).map(|i| f64::from(i) * step).take_while(|mark| *mark <= right).collect()
    };
    for mark in marks {
        svg += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x(mark), y1 + 16.0, number(mark));
    }
    let name = escape(across.name);
    svg += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>\n", (x0 + x1) / 2.0, y1 + 32.0);
    let middle = (y0 + y1) / 2.0;
    svg += &format!("<text x=\"16\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle})\">{}</text>\n", escape(up));
    for (i, s) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let known: Vec<_> = s.points.iter().filter(|p| drawn(p)).collect();
        let line: Vec<String> = known.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        svg += &format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" points=\"{}\"/>\n", line.join(" "));
        if known.len() <= 60 {
            for p in known {
                let tip = format!("{} at {name} {}: {}", escape(&s.name), number(p.0), number(p.1));
                svg +=
                    &format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{colour}\"><title>{tip}</title></circle>", x(p.0), y(p.1));
            }
        }
        let at = y0 + 8.0 + 18.0 * i as f64;
        svg += &format!("<line x1=\"{}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"{colour}\" stroke-width=\"3\"/>", x1 + 14.0, x1 + 34.0);
        svg += &format!("<text x=\"{}\" y=\"{}\">{}</text>\n", x1 + 40.0, at + 4.0, escape(&s.name));
    }
    svg + "</svg>\n"
}

/// A step of 1, 2 or 5 times a power of ten that divides `span` into about five.
pub(super) fn tick(span: f64) -> f64 {
    if span <= 0.0 || !span.is_finite() {
        return 1.0;
    }
    let raw = span / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let first = [1.0, 2.0, 5.0].into_iter().find(|m| m * power >= raw * 0.999);
    first.unwrap_or(10.0) * power
}

/// A number without needless digits.
pub(super) fn number(x: f64) -> String {
    let text = if x.abs() >= 100.0 { format!("{x:.0}") } else { format!("{x:.4}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// Text that is safe inside HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    clean::lines(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (span, step) in [(1.0, 0.2), (0.07, 0.02), (100.0, 20.0), (12_000.0, 5000.0), (0.0, 1.0)] {
            assert!((tick(span) - step).abs() < 1e-9, "{span}: {}", tick(span));
        }
    }

    #[test]
    fn hostile_names_and_values_do_not_break_the_picture() {
        let series = [
            Series { name: "<b>&".into(), points: vec![(1.0, f64::NAN), (2.0, 0.5), (3.0, f64::INFINITY)] },
            Series { name: "flat".into(), points: vec![(1.0, 0.0)] },
        ];
        let svg = line_chart("a \"chart\"", "<i>", ROUNDS, &series);
        assert!(svg.contains("&lt;b&gt;&amp;") && svg.contains(">&lt;i&gt;<") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(line_chart("none", "HR@20", ROUNDS, &[]), "");
        let across = Across { name: "visits", log: true };
        let points = vec![(0.0, 0.3), (-1.0, 0.3), (5.0, 0.1), (4e6, 0.2)];
        let svg = document(&line_chart("log", "HR@20", across, &[Series { name: "a".into(), points }]));
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains(">1000000<") && svg.contains("xmlns"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2, "what is not above 0 has no place: {svg}");
    }

    #[test]
    fn the_axis_ends_at_the_last_point_and_long_names_widen_the_picture() {
        let points = vec![(0.0, 0.0), (0.01, 0.1), (0.05, 0.7)];
        let series = [Series { name: "a name of forty letters, more or less ...".into(), points }];
        let svg = document(&line_chart("shares", "HR@20", Across { name: "share", log: false }, &series));
        assert!(svg.contains(">0.05<"), "{svg}");
        assert!(svg.contains("cx=\"588.0\"") && svg.contains("width=\"923\"") && svg.contains("viewBox=\"0 0 923 260\""), "{svg}");
    }
}
