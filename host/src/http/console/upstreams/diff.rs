//! What is different between two texts, line by line. Pure.

/// Lines that stay around what is different.
const AROUND: usize = 3;
/// Largest table of lines that is compared; beyond that everything in between is different.
const MOST_CELLS: usize = 250_000;

/// A line of both texts, or of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Same(String),
    Gone(String),
    New(String),
    /// So many lines that are the same are left out.
    Skipped(usize),
}

/// What has to be taken from `before`, and what has to be added, for it to be `after`.
pub(super) fn diff(before: &str, after: &str) -> Vec<Line> {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let (before_rest, after_rest) = (&before[head..], &after[head..]);
    let tail = before_rest.iter().rev().zip(after_rest.iter().rev()).take_while(|(one, other)| one == other).count();
    let (gone, new) = (&before_rest[..before_rest.len() - tail], &after_rest[..after_rest.len() - tail]);
    let same = |lines: &[&str]| lines.iter().map(|line| Line::Same((*line).to_owned())).collect::<Vec<_>>();
    let mut lines = same(&before[..head]);
    lines.extend(between(gone, new));
    lines.extend(same(&before[before.len() - tail..]));
    shortened(lines)
}

/// By the longest list of lines that both have in the same order.
fn between(before: &[&str], after: &[&str]) -> Vec<Line> {
    let gone = |line: &str| Line::Gone(line.to_owned());
    let new = |line: &str| Line::New(line.to_owned());
    if before.len().saturating_mul(after.len()) > MOST_CELLS {
        return before.iter().map(|line| gone(line)).chain(after.iter().map(|line| new(line))).collect();
    }
    let width = after.len() + 1;
    // How many lines both have from here on, row by row of `before`.
    let mut common = vec![0_u32; (before.len() + 1) * width];
    for one in (0..before.len()).rev() {
        for other in (0..after.len()).rev() {
            common[one * width + other] = if before[one] == after[other] {
                common[(one + 1) * width + other + 1] + 1
            } else {
                common[(one + 1) * width + other].max(common[one * width + other + 1])
            };
        }
    }
    let (mut one, mut other, mut lines) = (0, 0, Vec::new());
    while one < before.len() && other < after.len() {
        if before[one] == after[other] {
            lines.push(Line::Same(before[one].to_owned()));
            (one, other) = (one + 1, other + 1);
        } else if common[(one + 1) * width + other] >= common[one * width + other + 1] {
            lines.push(gone(before[one]));
            one += 1;
        } else {
            lines.push(new(after[other]));
            other += 1;
        }
    }
    lines.extend(before[one..].iter().map(|line| gone(line)));
    lines.extend(after[other..].iter().map(|line| new(line)));
    lines
}

/// Without what is far from anything that is different.
fn shortened(lines: Vec<Line>) -> Vec<Line> {
    let is_other: Vec<bool> = lines.iter().map(|line| !matches!(line, Line::Same(_))).collect();
    let is_near = |at: usize| {
        let (from, to) = (at.saturating_sub(AROUND), (at + AROUND + 1).min(is_other.len()));
        is_other[from..to].contains(&true)
    };
    let mut short = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        if is_near(at) {
            short.push(line);
        } else if let Some(Line::Skipped(count)) = short.last_mut() {
            *count += 1;
        } else {
            short.push(Line::Skipped(1));
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &str, after: &str) -> String {
        let line = |line: &Line| match line {
            Line::Same(text) => format!(" {text}"),
            Line::Gone(text) => format!("-{text}"),
            Line::New(text) => format!("+{text}"),
            Line::Skipped(count) => format!("@{count}"),
        };
        diff(before, after).iter().map(line).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn lines_that_both_have_stay() {
        for (before, after, expected) in [
            ("a\nb\nc", "a\nB\nc", " a|-b|+B| c"),
            ("a\nb", "a\nb", "@2"),
            ("", "a", "+a"),
            ("a", "", "-a"),
            ("a\nb\nc\nd", "b\nx\nd\ne", "-a| b|-c|+x| d|+e"),
            ("1\n2\n3\n4\n5\n6\n7\n8\n9", "1\n2\n3\n4\n5\n6\n7\n8\nx", "@5| 6| 7| 8|-9|+x"),
        ] {
            assert_eq!(told(before, after), expected, "{before:?} and {after:?}");
        }
    }

    #[test]
    fn what_is_too_much_to_compare_is_different_as_a_whole() {
        let many = |prefix: &str| (0..600).map(|at| format!("{prefix}{at}\n")).collect::<String>();
        let lines = diff(&many("a"), &many("b"));
        assert_eq!(lines.len(), 1_200);
        assert!(matches!((&lines[0], &lines[1_199]), (Line::Gone(_), Line::New(_))));
    }
}
