//! Rows in columns.

use super::terminal_width;

/// No column is made narrower, in characters, to make a table fit.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// Rows in columns as wide as they need to be, or as a terminal lets them be.
pub(in crate::cli) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    laid_out(head, rows, terminal_width())
}

fn laid_out(head: &[&str], rows: impl Iterator<Item = Vec<String>>, terminal: Option<usize>) -> String {
    let head = (!head.is_empty()).then(|| head.iter().map(ToString::to_string).collect());
    // A line break of somebody else's would begin a row.
    let rows: Vec<Vec<String>> = head
        .into_iter()
        .chain(rows)
        .map(|row: Vec<String>| row.into_iter().map(|cell| cell.replace('\n', " ")).collect())
        .collect();
    let widths = widths(&rows, terminal);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", cut(cell, *width)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Of each column; the widest ones give way where a terminal is too narrow.
fn widths(rows: &[Vec<String>], terminal: Option<usize>) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let mut widths: Vec<usize> = (0..columns).map(width).collect();
    let Some(terminal) = terminal else { return widths };
    loop {
        let all = widths.iter().sum::<usize>() + GAP * columns.saturating_sub(1);
        let too_wide = all.saturating_sub(terminal);
        let Some(widest) = (0..columns).max_by_key(|column| widths[*column]) else { return widths };
        if too_wide == 0 || widths[widest] <= NARROWEST {
            return widths;
        }
        // Down to the next one, or by as much as is needed.
        let others = widths.iter().enumerate().filter(|(column, _)| *column != widest);
        let next = others.map(|(_, width)| *width).max().unwrap_or_default().clamp(NARROWEST, widths[widest] - 1);
        widths[widest] = next.max(widths[widest].saturating_sub(too_wide));
    }
}

/// At most `width` characters, the last of which says that there is more.
fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(rows: &[&[&str]]) -> impl Iterator<Item = Vec<String>> {
        rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        assert_eq!(laid_out(&["N", "M"], rows(&[&["a", "long"], &["häh", ""]]), None), "N    M\na    long\nhäh");
        assert_eq!(laid_out(&[], rows(&[&["a\nb", "c"]]), None), "a b  c");
    }

    #[test]
    fn the_widest_column_gives_way_on_a_terminal() {
        let told = laid_out(&["NAME", "REASON"], rows(&[&["notes", "nobody listens there at all"]]), Some(20));
        assert_eq!(told, "NAME   REASON\nnotes  nobody liste…");
        let narrow = laid_out(&[], rows(&[&["0123456789", "0123456789"]]), Some(4));
        assert_eq!(narrow, "0123456…  0123456…", "no narrower than can be read");
    }

    proptest! {
        #[test]
        fn a_table_fits_if_its_columns_can(
            cells in prop::collection::vec(prop::collection::vec("[a-z ]{0,60}", 3), 1..5),
            terminal in 28_usize..200,
        ) {
            let told = laid_out(&[], cells.into_iter(), Some(terminal));
            prop_assert!(told.lines().all(|line| line.chars().count() <= terminal), "{}", told);
        }
    }
}
