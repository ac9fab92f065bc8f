//! Plots as SVG text, readable on light and on dark paper. Knows numbers and labels only.

use std::fmt::Write as _;

/// Grey that stands out from white and from black.
const INK: &str = "#7d8590";
/// Fill of the first, second and third part of a bar, and of lines.
const COLORS: [&str; 4] = ["#3b82c4", "#e0893a", "#9aa4af", "#4a9d5f"];
const WIDTH: u32 = 860;

/// A bar of parts of a whole.
#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    /// Left of it.
    pub label: String,
    /// Its parts, each `0..=1`.
    pub parts: Vec<f64>,
    /// Right of it.
    pub note: String,
}

/// Horizontal bars, one below the other. `parts` names the parts of each bar.
#[must_use]
pub fn bars(title: &str, parts: &[&str], bars: &[Bar]) -> String {
    const LEFT: f64 = 230.0;
    const BAR_WIDTH: f64 = 360.0;
    const ROW: f64 = 24.0;
    const TOP: f64 = 66.0;
    let mut svg = open(title, (TOP + ROW * bars.len() as f64) as u32 + 8);
    legend(&mut svg, parts, LEFT, 46.0);
    for (row, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        text(&mut svg, (LEFT - 10.0, top + 13.0), "end", &bar.label);
        let mut left = LEFT;
        for (part, color) in bar.parts.iter().zip(COLORS) {
            let width = part * BAR_WIDTH;
            let _ =
                writeln!(svg, r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="17" fill="{color}"/>"#);
            left += width;
        }
        text(&mut svg, (LEFT + BAR_WIDTH + 10.0, top + 13.0), "start", &bar.note);
    }
    svg + "</svg>\n"
}

/// A line through points `(x, y)`.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// In the legend.
    pub label: String,
    /// With rising `x`.
    pub points: Vec<(f64, f64)>,
}

/// Lines over one pair of axes that begin at zero.
#[must_use]
pub fn lines(title: &str, x_label: &str, y_label: &str, lines: &[Line]) -> String {
    const LEFT: f64 = 70.0;
    const TOP: f64 = 70.0;
    const PLOT_WIDTH: f64 = 740.0;
    const PLOT_HEIGHT: f64 = 260.0;
    let bottom = TOP + PLOT_HEIGHT;
    let points = || lines.iter().flat_map(|line| &line.points);
    let (max_x, max_y) = points().fold((0.0_f64, 0.0_f64), |(x, y), point| (x.max(point.0), y.max(point.1)));
    let (x_tick, y_tick) = (tick(max_x), tick(max_y));
    let (max_x, max_y) = ((max_x / x_tick).ceil() * x_tick, (max_y / y_tick).ceil() * y_tick);
    let place = |(x, y): (f64, f64)| (LEFT + x / max_x * PLOT_WIDTH, bottom - y / max_y * PLOT_HEIGHT);

    let mut svg = open(title, bottom as u32 + 56);
    let labels: Vec<&str> = lines.iter().map(|line| line.label.as_str()).collect();
    legend(&mut svg, &labels, LEFT, 46.0);
    for nth in 0..=(max_x / x_tick).round() as u32 {
        let x = f64::from(nth) * x_tick;
        text(&mut svg, (place((x, 0.0)).0, bottom + 18.0), "middle", &number(x));
    }
    for nth in 0..=(max_y / y_tick).round() as u32 {
        let y = f64::from(nth) * y_tick;
        let (left, height) = place((0.0, y));
        let right = LEFT + PLOT_WIDTH;
        let _ = writeln!(
            svg,
            r#"<path d="M{left:.1} {height:.1}H{right:.1}" stroke="{INK}" stroke-opacity="0.3" fill="none"/>"#
        );
        text(&mut svg, (LEFT - 8.0, height + 4.0), "end", &number(y));
    }
    text(&mut svg, (LEFT + PLOT_WIDTH / 2.0, bottom + 42.0), "middle", x_label);
    text(&mut svg, (LEFT, TOP - 8.0), "start", y_label);
    for (line, color) in lines.iter().zip(COLORS) {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|point| {
                let (x, y) = place(*point);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let path = path.join(" ");
        let _ = writeln!(svg, r#"<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>"#);
    }
    svg + "</svg>\n"
}

fn open(title: &str, height: u32) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12.5\" fill=\"{INK}\">\n"
    );
    let _ = writeln!(svg, r#"<title>{title}</title><text x="16" y="22" font-size="15">{title}</text>"#);
    svg
}

fn legend(svg: &mut String, labels: &[&str], mut left: f64, bottom: f64) {
    for (label, color) in labels.iter().zip(COLORS) {
        let top = bottom - 11.0;
        let _ = writeln!(svg, r#"<rect x="{left:.1}" y="{top:.1}" width="12" height="12" fill="{color}"/>"#);
        text(svg, (left + 17.0, bottom), "start", label);
        left += 17.0 + 7.5 * label.chars().count() as f64 + 16.0;
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}

/// A round distance of about a sixth of the whole.
fn tick(max: f64) -> f64 {
    let power = 10_f64.powf((max / 6.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| max / step <= 7.0).unwrap_or(power * 10.0)
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_and_value_is_drawn() {
        let bar = Bar { label: "blocks of 16".into(), parts: vec![0.5, 0.25], note: "x".into() };
        let drawn = bars("Memory", &["filled", "empty"], &[bar]);
        for expected in ["Memory", "filled", "empty", "blocks of 16", "width=\"180.0\"", "width=\"90.0\"", "</svg>"] {
            assert!(drawn.contains(expected), "{expected} in {drawn}");
        }
        let line = Line { label: "goodput".into(), points: vec![(0.0, 0.0), (10.0, 3.0)] };
        let drawn = lines("Overload", "load", "requests/s", &[line]);
        for expected in ["goodput", "load", "requests/s", "points=\"70.0,330.0 810.0,70.0\""] {
            assert!(drawn.contains(expected), "{expected} in {drawn}");
        }
    }
}
