//! What was measured: tables for people, and the same figures as JSON.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// Everything that a run has found so far; each table is printed as it is added.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    tables: Vec<Table>,
    remarks: Vec<String>,
}

/// Rows of figures under the same heads.
#[derive(Serialize)]
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// In the order of the columns; `None` where there is nothing to say.
    figures: Vec<Option<f64>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, figures: Vec<Option<f64>>) {
        self.rows.push(Row { name: name.into(), figures });
    }
}

impl Report {
    pub(crate) fn table(&mut self, table: Table) {
        print(&format!("{}\n", table.title));
        print(&format!("| target | {} |", table.columns.join(" | ")));
        print(&format!("|---|{}", "---|".repeat(table.columns.len())));
        for row in &table.rows {
            let figures: Vec<String> = row.figures.iter().map(|figure| figure.map_or("–".to_owned(), short)).collect();
            print(&format!("| {} | {} |", row.name, figures.join(" | ")));
        }
        print("");
        self.tables.push(table);
    }

    pub(crate) fn say(&mut self, remark: &str) {
        print(remark);
        self.remarks.push(remark.trim_end().to_owned());
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))
    }
}

#[expect(clippy::print_stdout, reason = "a program whose output is its result")]
fn print(line: &str) {
    println!("{line}");
}

/// Three digits or so: more would be noise.
fn short(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// The value below which `share` (0 to 1) of all values are; 0 of nothing. Sorts the values.
pub(crate) fn percentile(values: &mut [u32], share: f64) -> f64 {
    values.sort_unstable();
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().map_or(0.0, f64::from)
}

/// The value in the middle; none of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_values_that_are_there() {
        let mut values: Vec<u32> = (1..=1_001).rev().collect();
        assert_eq!(percentile(&mut values, 0.5), 501.0);
        assert_eq!(percentile(&mut values, 0.999), 1_000.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}
