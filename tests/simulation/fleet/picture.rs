//! Draws the curves of a fleet, as SVG.

use std::fmt::Write as _;

use super::curve::{Count, Curve};

const WIDTH: f64 = 960.0;
/// Of one curve: with its title above, and the seconds below.
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const ABOVE: f64 = 34.0;
const BELOW: f64 = 30.0;
const HEAD: f64 = 46.0;
/// Lines of the grid.
const LINES: u32 = 4;

const AUDITED: &str = "#0b5394";
const OTHERS: &str = "#b0b0b0";
const LIMIT: &str = "#cc0000";

/// One picture of all curves, one below the other. The limit is one request a second and node.
#[allow(clippy::cast_precision_loss)] // a few thousand
pub(super) fn of(curves: &[Curve], nodes: usize) -> String {
    let height = HEAD + HEIGHT * curves.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let head = format!("Requests a second from {nodes} nodes to one key service");
    text(&mut svg, (LEFT, 20.0), "font-size=\"15\"", &head);
    let mut x = LEFT;
    for (color, what, wide) in [
        (AUDITED, "audited", 90.0),
        (OTHERS, "sys/health, not audited", 180.0),
        (LIMIT, "one a second and node", 0.0),
    ] {
        let _written = writeln!(svg, "<rect x=\"{x}\" y=\"29\" width=\"14\" height=\"4\" fill=\"{color}\"/>");
        text(&mut svg, (x + 20.0, 36.0), "", what);
        x += wide;
    }
    for (place, curve) in curves.iter().enumerate() {
        panel(&mut svg, HEAD + HEIGHT * place as f64, curve, nodes as f64);
    }
    svg + "</svg>\n"
}

#[allow(clippy::cast_precision_loss)] // a few thousand
fn panel(svg: &mut String, top: f64, curve: &Curve, limit: f64) {
    let (seconds, peak) = (curve.seconds(), curve.peak());
    let (Some((first, _)), Some((last, _))) = (seconds.first(), seconds.last()) else { return };
    let highest = (peak.audited.max(peak.others) as f64).max(limit) * 1.08;
    let (bottom, room) = (top + HEIGHT - BELOW, HEIGHT - ABOVE - BELOW);
    let x_of = |second: f64| LEFT + (second - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y_of = |count: f64| bottom - count / highest * room;
    let title = format!("{}: at most {} audited within a second", curve.title(), peak.audited);
    text(svg, (LEFT, top + ABOVE - 10.0), "", &title);
    for line in 0..=LINES {
        let count = highest / 1.08 * f64::from(line) / f64::from(LINES);
        rule(svg, (LEFT, y_of(count)), (WIDTH - RIGHT, y_of(count)), "stroke=\"#eee\"");
        text(
            svg,
            (LEFT - 8.0, y_of(count) + 4.0),
            "text-anchor=\"end\" fill=\"#555\"",
            &format!("{count:.0}"),
        );
    }
    let mut second = (first / 60.0).ceil() * 60.0;
    while second <= *last {
        let label = format!("{second:.0} s");
        text(svg, (x_of(second), bottom + 16.0), "text-anchor=\"middle\" fill=\"#555\"", &label);
        second += 60.0;
    }
    if *first < 0.0 {
        rule(svg, (x_of(0.0), top + ABOVE), (x_of(0.0), bottom), "stroke=\"#999\" stroke-dasharray=\"2 3\"");
    }
    let audited = |count: &Count| count.audited;
    let others = |count: &Count| count.others;
    for (color, of) in [(OTHERS, &others as &dyn Fn(&Count) -> usize), (AUDITED, &audited)] {
        let points = seconds
            .iter()
            .map(|(second, count)| format!("{:.1},{:.1}", x_of(*second), y_of(of(count) as f64)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _written = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
        );
    }
    let style = format!("stroke=\"{LIMIT}\" stroke-dasharray=\"6 4\"");
    rule(svg, (LEFT, y_of(limit)), (WIDTH - RIGHT, y_of(limit)), &style);
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _written =
        writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>");
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, text: &str) {
    let _written = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}
