//! Charts as SVG, made here and drawn by the browser without a script. Pure: a [`Chart`] is places and words, and
//! `console/chart.html` writes them, with a table of the same for who would rather read.

use std::fmt;

/// Width of the drawing in its own units; it scales with the page.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 120.0;
/// Between two columns, of the room that one has.
const GAP: f64 = 0.15;

/// What a chart is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What follows a value, such as `requests`.
    pub(super) unit: &'static str,
}

/// A series of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) label: &'static str,
    /// The class that the stylesheet has for it.
    pub(super) class: &'static str,
    /// The path of its texture, by which it is told from others without colours.
    pub(super) texture: &'static str,
    /// What it comes to over all columns, in words.
    pub(super) told: String,
}

/// One column: when it is of, and the value of each series where there is one.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) at: String,
    pub(super) values: Vec<Option<u64>>,
}

/// How the values of a column stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Parts of one sum.
    Parts,
    /// Heights, each at least that of the one before.
    Heights,
}

/// Columns that are drawn.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) frame: Frame,
    /// The same in a sentence, for who does not see it.
    pub(super) summary: String,
    /// What the highest place of the scale stands for.
    pub(super) top: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) bars: Vec<Bar>,
    pub(super) series: Vec<Series>,
    pub(super) columns: Vec<Column>,
}

/// A rectangle of a chart.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) x: Length,
    pub(super) y: Length,
    pub(super) width: Length,
    pub(super) height: Length,
    /// What it stands for.
    pub(super) label: String,
}

/// A length with two digits, which is finer than any screen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Length(f64);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

impl Chart {
    /// The chart of these columns, from the earliest.
    pub(super) fn new(frame: Frame, kind: Kind, series: Vec<Series>, columns: Vec<Column>) -> Self {
        let top = round_up(columns.iter().map(|column| height(column, kind)).max().unwrap_or(0));
        let told: Vec<String> = series.iter().map(|series| format!("{}: {}", series.label, series.told)).collect();
        let at = |column: Option<&Column>| column.map(|column| column.at.clone()).unwrap_or_default();
        Self {
            frame,
            summary: told.join(", "),
            top: format!("{top} {}", frame.unit),
            from: at(columns.first()),
            to: at(columns.last()),
            bars: bars((frame.unit, top), kind, &series, &columns),
            series,
            columns,
        }
    }

    /// Whether there is nothing to see.
    pub(super) fn is_empty(&self) -> bool {
        self.bars.is_empty()
    }
}

/// How high a column is.
fn height(column: &Column, kind: Kind) -> u64 {
    let values = column.values.iter().flatten();
    match kind {
        Kind::Parts => values.sum(),
        Kind::Heights => values.copied().max().unwrap_or(0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "places on a screen")]
fn bars((unit, top): (&str, u64), kind: Kind, series: &[Series], columns: &[Column]) -> Vec<Bar> {
    let room = WIDTH / columns.len().max(1) as f64;
    let mut bars = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        let mut below = 0;
        for (series, value) in series.iter().zip(&column.values) {
            let value = value.unwrap_or(0);
            let above = match kind {
                Kind::Parts => below + value,
                Kind::Heights => value.max(below),
            };
            if above > below {
                let (low, high) = (below as f64 / top as f64, above as f64 / top as f64);
                bars.push(Bar {
                    class: series.class,
                    x: Length((number as f64 + GAP / 2.0) * room),
                    y: Length(HEIGHT * (1.0 - high)),
                    width: Length(room * (1.0 - GAP)),
                    height: Length(HEIGHT * (high - low)),
                    label: format!("{}: {value} {unit}, {}", column.at, series.label),
                });
            }
            below = above;
        }
    }
    bars
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_up(value: u64) -> u64 {
    let mut scale: u64 = 1;
    loop {
        for step in [1, 2, 5] {
            let top = scale.saturating_mul(step);
            if top >= value {
                return top;
            }
        }
        scale = scale.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chart(kind: Kind, values: &[[u64; 2]]) -> Chart {
        let frame = Frame { id: "requests", title: "Requests", unit: "requests" };
        let series = |label, class| Series { label, class, texture: "", told: "some".to_owned() };
        let column =
            |(at, values): (usize, &[u64; 2])| Column { at: format!("{at}:00"), values: values.map(Some).to_vec() };
        let columns: Vec<Column> = values.iter().enumerate().map(column).collect();
        Chart::new(frame, kind, vec![series("allowed", "good"), series("denied", "bad")], columns)
    }

    #[test]
    fn what_a_chart_shows_it_also_says() {
        let chart = chart(Kind::Parts, &[[3, 1], [0, 0], [8, 0]]);
        assert_eq!(chart.summary, "allowed: some, denied: some");
        assert_eq!((chart.top.as_str(), chart.from.as_str(), chart.to.as_str()), ("10 requests", "0:00", "2:00"));
        let told: Vec<&str> = chart.bars.iter().map(|bar| bar.label.as_str()).collect();
        assert_eq!(told, ["0:00: 3 requests, allowed", "0:00: 1 requests, denied", "2:00: 8 requests, allowed"]);
    }

    #[test]
    fn heights_are_measured_from_the_ground() {
        let chart = chart(Kind::Heights, &[[4, 10], [2, 2]]);
        assert_eq!(chart.top, "10 requests");
        let told: Vec<(&str, f64)> = chart.bars.iter().map(|bar| (bar.label.as_str(), bar.height.0.round())).collect();
        let expected = [
            ("0:00: 4 requests, allowed", 48.0),
            ("0:00: 10 requests, denied", 72.0),
            ("1:00: 2 requests, allowed", 24.0),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_chart_of_nothing_is_empty() {
        assert!(chart(Kind::Parts, &[]).is_empty() && chart(Kind::Parts, &[[0, 0]]).is_empty());
    }

    #[test]
    fn scales_end_at_round_numbers() {
        assert_eq!([0, 1, 2, 3, 6, 11, 51, u64::MAX].map(round_up), [1, 1, 2, 5, 10, 20, 100, u64::MAX]);
    }

    proptest! {
        #[test]
        fn bars_stay_in_the_drawing(values in proptest::collection::vec([0..1_000_000u64, 0..1_000_000u64], 0..100), parts: bool) {
            let chart = chart(if parts { Kind::Parts } else { Kind::Heights }, &values);
            prop_assert!(!parts || chart.bars.len() == values.iter().flatten().filter(|value| **value > 0).count());
            for bar in &chart.bars {
                prop_assert!(bar.x.0 >= 0.0 && bar.x.0 + bar.width.0 <= WIDTH + 1e-6);
                prop_assert!(bar.y.0 >= -1e-6 && bar.y.0 + bar.height.0 <= HEIGHT + 1e-6);
            }
        }
    }
}
