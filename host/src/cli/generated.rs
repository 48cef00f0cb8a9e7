//! What is made of the commands' own definition: completions for shells, and man pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, print};

/// The name of the program.
const PROGRAM: &str = "portcullis";
/// What a man page belongs to.
const SOURCE: &str = concat!("portcullis ", env!("CARGO_PKG_VERSION"));

#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell that it is for.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        print(script(self.shell)?.trim_end())
    }
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), PROGRAM, &mut script);
    String::from_utf8(script).context("the script is not text")
}

#[derive(clap::Args)]
pub(super) struct Man {
    /// Where the pages go, such as /usr/local/share/man/man1. It is made if it is not there.
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let pages = pages()?;
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        for (name, page) in &pages {
            let path = self.dir.join(name);
            fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        }
        print(&format!("{} pages are in {}", pages.len(), Path::new(&self.dir).display()))
    }
}

/// A page for each command that is not hidden, by the name of its file.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    each_command(&mut |path, command| {
        let name = path.join("-");
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).title(name.clone()).source(SOURCE).render(&mut page)?;
        pages.push((format!("{name}.1"), page));
        Ok::<_, io::Error>(())
    })?;
    Ok(pages)
}

/// Visits every command that is not hidden, with the words that lead to it.
pub(super) fn each_command<E>(visit: &mut impl FnMut(&[String], &clap::Command) -> Result<(), E>) -> Result<(), E> {
    fn walk<E>(
        path: &mut Vec<String>,
        command: &clap::Command,
        visit: &mut impl FnMut(&[String], &clap::Command) -> Result<(), E>,
    ) -> Result<(), E> {
        path.push(command.get_name().to_owned());
        visit(path, command)?;
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
            walk(path, inner, visit)?;
        }
        path.pop();
        Ok(())
    }
    let mut command = Arguments::command();
    command.build();
    walk(&mut Vec::new(), &command, visit)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Each command, and what is said of it in a line.
    fn commands() -> Vec<(String, String)> {
        let mut all = Vec::new();
        let Ok(()) = each_command(&mut |path, command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            all.push((path.join(" "), about));
            Ok::<_, Infallible>(())
        });
        all
    }

    #[test]
    fn the_definition_holds() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_says_what_it_is() {
        let commands = commands();
        assert!(commands.len() > 60, "{}", commands.len());
        for (command, about) in &commands {
            assert!(about.len() > 8, "{command} says {about:?}");
        }
        let Ok(()) = each_command(&mut |path, command| {
            for argument in command.get_arguments() {
                let says = argument.get_help().is_some_and(|help| help.to_string().len() > 5);
                assert!(says, "{path:?} {}", argument.get_id());
            }
            Ok::<_, Infallible>(())
        });
    }

    #[test]
    fn everything_that_lists_or_shows_prints_json_on_request() {
        let mut count = 0;
        let Ok(()) = each_command(&mut |path, command| {
            let is_one = path.last().is_some_and(|last| ["list", "show", "status", "stats"].contains(&last.as_str()));
            if is_one {
                count += 1;
                let has = command.get_arguments().any(|argument| argument.get_long() == Some("output"));
                assert!(has, "{path:?} has no --output");
            }
            Ok::<_, Infallible>(())
        });
        assert!(count > 15, "{count}");
    }

    #[test]
    fn what_asks_the_gateway_prints_json_but_for_what_the_documents_name() {
        // These read a configuration and ask nobody.
        const ALONE: &[&str] = &["serve", "check"];
        let documents = include_str!("../../../docs/cli.md");
        let begins = "Commands that ask the gateway and do without are ";
        let (_, named) = documents.split_once(begins).expect("the exceptions are named");
        let (named, _) = named.split_once(". ").expect("the sentence ends");
        let mut without = 0;
        let Ok(()) = each_command(&mut |path, command| {
            // Of policy modules there is another `--config`, which has no letter.
            let reads = command.get_arguments().any(|argument| argument.get_short() == Some('c'));
            let prints = command.get_arguments().any(|argument| argument.get_long() == Some("output"));
            let name = path[1..].join(" ");
            if reads && !prints && !ALONE.contains(&name.as_str()) {
                without += 1;
                assert!(named.contains(&format!("`{name}`")), "{name} has no --output");
            }
            Ok::<_, Infallible>(())
        });
        assert_eq!(named.matches('`').count(), without * 2, "docs/cli.md names what has --output: {named}");
    }

    #[test]
    fn every_command_is_in_the_documents() {
        let documents = include_str!("../../../docs/cli.md");
        let row = |(command, about): &(String, String)| format!("| `{command}` | {} |", about.trim_end_matches('.'));
        let missing: Vec<String> =
            commands().iter().skip(1).map(row).filter(|row| !documents.lines().any(|line| line == row)).collect();
        assert!(missing.is_empty(), "docs/cli.md lacks:\n{}", missing.join("\n"));
        let rows = documents.lines().filter(|line| line.starts_with("| `portcullis ")).count();
        assert_eq!(rows, commands().len() - 1, "docs/cli.md has commands that there are not");
    }

    #[test]
    fn bash_reads_its_completions_and_others_have_all_commands() {
        let bash = script(Shell::Bash).unwrap();
        let mut check = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        check.stdin.take().unwrap().write_all(bash.as_bytes()).unwrap();
        assert!(check.wait().unwrap().success());
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell).unwrap();
            for word in ["upstream", "redirect-uris", "rotate-kek", "doctor"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_page_says_what_its_command_is_called_and_how_it_is_used() {
        let pages = pages().unwrap();
        assert_eq!(pages.len(), commands().len());
        for (name, page) in pages {
            let page = String::from_utf8(page).unwrap();
            let sections = ["\n.SH NAME\n", "\n.SH SYNOPSIS\n", "\n.SH DESCRIPTION\n"];
            assert!(sections.iter().all(|section| page.contains(section)), "{name}: {page}");
            let title = name.trim_end_matches(".1");
            let head = page.lines().find(|line| line.starts_with(&format!(".TH {title}"))).unwrap_or_default();
            assert!(head.contains(SOURCE), "{name}: {head}");
        }
    }
}
