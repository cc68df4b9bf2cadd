//! Draws memory and failed calls over time as an SVG.

use std::fmt::Write as _;

/// What was seen at one time; each list has one entry for each agent.
#[derive(Clone)]
pub struct Sample {
    /// In seconds after the start.
    pub at: f64,
    /// In MiB; none while there is no process.
    pub memory: Vec<Option<f64>>,
    /// Calls that failed since the sample before.
    pub failed: Vec<usize>,
}

pub struct Chart<'a> {
    pub title: String,
    pub names: Vec<&'static str>,
    pub samples: &'a [Sample],
    /// The kinds of events, from the top down.
    pub kinds: [&'static str; 5],
    /// Events: the second, and what it was.
    pub marks: &'a [(f64, &'static str)],
    pub seconds: f64,
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
/// Memory, and below it the failed calls: the upper and the lower edge of each.
const MEMORY: (f64, f64) = (80.0, 300.0);
const FAILED: (f64, f64) = (340.0, 440.0);
const COLOURS: [&str; 4] = ["#1f6feb", "#8250df", "#1a7f37", "#bc4c00"];

impl Chart<'_> {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.seconds).min(1.0)
    }

    /// A number that is not less than the largest value, for the upper edge of an axis.
    fn top(most: f64) -> f64 {
        let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];
        let step = step.into_iter().find(|step| most <= step * 4.0).unwrap_or(most);
        (most / step).ceil().max(1.0) * step
    }

    /// The axis of a panel: its heading, its edge values and its lines.
    fn panel(&self, svg: &mut String, heading: &str, (upper, lower): (f64, f64), top: f64) {
        let right = WIDTH - RIGHT;
        for (value, y) in [(0.0, lower), (top / 2.0, f64::midpoint(lower, upper)), (top, upper)] {
            writeln!(svg, r##"<line x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="#d0d7de"/>"##)
                .unwrap();
            writeln!(svg, r#"<text x="{}" y="{}" text-anchor="end">{value}</text>"#, LEFT - 6.0, y + 4.0)
                .unwrap();
        }
        writeln!(svg, r#"<text x="{LEFT}" y="{}">{heading}</text>"#, upper - 8.0).unwrap();
    }

    pub fn svg(&self) -> String {
        let height = FAILED.1 + 40.0 + 16.0 * f64::from(u32::try_from(self.kinds.len()).unwrap());
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        writeln!(svg, r#"<text x="{LEFT}" y="22" font-size="15">{}</text>"#, self.title).unwrap();
        for (number, (name, colour)) in self.names.iter().zip(COLOURS).enumerate() {
            let x = LEFT + 200.0 * f64::from(u32::try_from(number).unwrap());
            writeln!(svg, r#"<text x="{x}" y="46" fill="{colour}">■ {name}</text>"#).unwrap();
        }
        let most = self.samples.iter().flat_map(|sample| sample.memory.iter().flatten());
        let top = Self::top(most.copied().fold(0.0, f64::max));
        self.panel(&mut svg, "resident memory, MiB", MEMORY, top);
        for (number, colour) in (0..self.names.len()).zip(COLOURS) {
            let mut path = String::new();
            let mut command = 'M';
            for sample in self.samples {
                let Some(memory) = sample.memory[number] else {
                    // A gap: there was no process.
                    command = 'M';
                    continue;
                };
                let y = MEMORY.1 - (MEMORY.1 - MEMORY.0) * memory / top;
                write!(path, "{command}{:.1} {y:.1}", self.x(sample.at)).unwrap();
                command = 'L';
            }
            writeln!(svg, r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#).unwrap();
        }
        self.failed(&mut svg);
        self.events(&mut svg);
        svg += "</svg>\n";
        svg
    }

    /// Bars of the failed calls, one agent's upon the other's.
    fn failed(&self, svg: &mut String) {
        let sum = |sample: &Sample| count(sample.failed.iter().sum());
        let top = Self::top(self.samples.iter().map(sum).fold(0.0, f64::max));
        self.panel(svg, "failed calls in each sample", FAILED, top);
        let scale = (FAILED.1 - FAILED.0) / top;
        for sample in self.samples {
            let mut y = FAILED.1;
            for (failed, colour) in sample.failed.iter().zip(COLOURS).filter(|(failed, _)| **failed > 0) {
                let height = count(*failed) * scale;
                y -= height;
                let x = self.x(sample.at) - 1.0;
                writeln!(
                    svg,
                    r#"<rect x="{x:.1}" y="{y:.1}" width="2" height="{height:.1}" fill="{colour}"/>"#
                )
                .unwrap();
            }
        }
    }

    /// A row for each kind of event, and the time at the bottom.
    fn events(&self, svg: &mut String) {
        for (row, event) in self.kinds.iter().enumerate() {
            let y = FAILED.1 + 20.0 + 16.0 * count(row);
            writeln!(svg, r#"<text x="{}" y="{}" text-anchor="end">{event}</text>"#, LEFT - 6.0, y + 4.0)
                .unwrap();
            for (at, _) in self.marks.iter().filter(|(_, mark)| mark == event) {
                writeln!(svg, r##"<circle cx="{:.1}" cy="{y}" r="3" fill="#57606a"/>"##, self.x(*at))
                    .unwrap();
            }
        }
        let y = FAILED.1 + 32.0 + 16.0 * count(self.kinds.len());
        let minutes = self.seconds / 60.0;
        for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (x, minute) = (self.x(self.seconds * part), minutes * part);
            writeln!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{minute:.1} min</text>"#).unwrap();
        }
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}
