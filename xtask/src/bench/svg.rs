//! A picture of the outcomes: bars on a logarithmic scale, readable on light and dark ground.

/// One group of bars under a title, with a scale of its own.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) unit: &'static str,
    pub(super) bars: Vec<Bar>,
}

#[derive(Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    /// In the panel's unit; `None`: it could not be measured.
    pub(super) value: Option<f64>,
    /// Drawn as a thin line on: a p99 behind a p50.
    pub(super) tail: Option<f64>,
    /// The one that stands out.
    pub(super) ours: bool,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 220.0;
const RIGHT: f64 = 110.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const TITLE: f64 = 44.0;
const AXIS: f64 = 30.0;

/// The same two inks read on both grounds: what is drawn has no ground of its own.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.small{font-size:11px;fill:#656d76}\
.bar{fill:#8c959f}.ours{fill:#0969da}.tail{stroke:#656d76;stroke-width:2}.grid{stroke:#d0d7de}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.bar{fill:#6e7681}.ours{fill:#4493f8}\
.tail{stroke:#8d96a0}.grid{stroke:#30363d}}";

/// All panels, one below the other.
pub(super) fn draw(panels: &[Panel]) -> String {
    let heights: Vec<f64> =
        panels.iter().map(|panel| TITLE + STEP * panel.bars.len() as f64 + AXIS).collect();
    let height = heights.iter().sum::<f64>() + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n"
    );
    let mut top = 0.0;
    for (panel, height) in panels.iter().zip(heights) {
        svg += &draw_panel(panel, top);
        top += height;
    }
    svg + "</svg>\n"
}

fn draw_panel(panel: &Panel, top: f64) -> String {
    let scale = Scale::over(panel.bars.iter().flat_map(|bar| [bar.value, bar.tail]).flatten());
    let bottom = top + TITLE + STEP * panel.bars.len() as f64;
    let mut svg =
        format!("<text class=\"title\" x=\"10\" y=\"{}\">{}</text>\n", top + 26.0, escaped(&panel.title));
    for power in scale.low..=scale.high {
        let x = scale.place(10_f64.powi(power));
        svg += &format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>\n\
             <text class=\"small\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} {}</text>\n",
            top + TITLE - 6.0,
            bottom + 14.0,
            short(10_f64.powi(power)),
            panel.unit,
        );
    }
    for (number, bar) in panel.bars.iter().enumerate() {
        let y = top + TITLE + STEP * number as f64;
        let text = y + BAR - 4.0;
        svg += &format!(
            "<text x=\"{}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 10.0,
            escaped(&bar.label)
        );
        let Some(value) = bar.value else {
            svg += &format!("<text class=\"small\" x=\"{}\" y=\"{text:.1}\">-</text>\n", LEFT + 6.0);
            continue;
        };
        let end = scale.place(value);
        let class = if bar.ours { "ours" } else { "bar" };
        svg += &format!(
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\n",
            (end - LEFT).max(1.0)
        );
        let tail = bar.tail.map_or(end, |tail| scale.place(tail)).max(end);
        if tail > end {
            let middle = y + BAR / 2.0;
            svg += &format!(
                "<line class=\"tail\" x1=\"{end:.1}\" x2=\"{tail:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\n"
            );
        }
        svg += &format!(
            "<text class=\"small\" x=\"{:.1}\" y=\"{text:.1}\">{} {}</text>\n",
            tail + 6.0,
            short(value),
            panel.unit
        );
    }
    svg
}

/// Powers of ten, all figures in between.
#[derive(Debug, PartialEq, Eq)]
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn over(figures: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for figure in figures.filter(|figure| *figure > 0.0) {
            (low, high) = (low.min(figure), high.max(figure));
        }
        if high == 0.0 {
            return Self { low: 0, high: 1 };
        }
        let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Self { low, high: high.max(low + 1) }
    }

    /// Where a figure lies; what is nothing lies at the left end.
    fn place(&self, figure: f64) -> f64 {
        let part = (figure.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

/// Three digits that say something, and no zeros behind them.
fn short(figure: f64) -> String {
    let size = if figure > 0.0 { figure.log10().floor() as i32 } else { 0 };
    let decimals = usize::try_from(2 - size).unwrap_or(0);
    let text = format!("{figure:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: Option<f64>, tail: Option<f64>) -> Bar {
        Bar { label: label.to_owned(), value, tail, ours: label == "defib" }
    }

    #[test]
    fn the_scale_holds_every_figure() {
        assert_eq!(Scale::over([3.0, 950.0].into_iter()), Scale { low: 0, high: 3 });
        assert_eq!(Scale::over([100.0].into_iter()), Scale { low: 2, high: 3 });
        assert_eq!(Scale::over([0.02, 0.0].into_iter()), Scale { low: -2, high: -1 });
        assert_eq!(Scale::over(std::iter::empty()), Scale { low: 0, high: 1 });
    }

    #[test]
    fn ten_times_as_much_is_always_as_far() {
        let scale = Scale { low: 0, high: 4 };
        let steps: Vec<f64> = [1.0, 10.0, 100.0].map(|figure| scale.place(figure)).into();
        assert!(((steps[1] - steps[0]) - (steps[2] - steps[1])).abs() < 1e-9);
        assert_eq!(scale.place(0.0), LEFT);
        assert_eq!(scale.place(1e9), WIDTH - RIGHT);
    }

    #[test]
    fn a_picture_has_every_bar_and_is_well_formed() {
        let bars = vec![
            bar("loop", Some(550.0), Some(900.0)),
            bar("defib", Some(1086.0), None),
            bar("a<b", None, None),
        ];
        let svg = draw(&[Panel { title: "kill & restart".to_owned(), unit: "µs", bars }]);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert_eq!(svg.matches("class=\"ours\"").count(), 1);
        assert_eq!(svg.matches("class=\"tail\"").count(), 1);
        assert!(svg.contains("kill &amp; restart") && svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn figures_have_three_digits() {
        let figures = [1086.4, 12.34, 1.234, 10.0, 0.0, 0.001, 100.0];
        assert_eq!(figures.map(short), ["1086", "12.3", "1.23", "10", "0", "0.001", "100"]);
    }
}
