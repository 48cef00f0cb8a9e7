//! Where a backup goes: standard output, or a file that is there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// What is written.
pub(super) enum Output {
    Standard,
    File(Begun),
}

/// A file under a name of its own, which goes when it is dropped.
pub(super) struct Begun {
    file: File,
    begun: PathBuf,
    path: PathBuf,
    replaces: bool,
}

impl Output {
    /// `-` is standard output. A file that is there already is a mistake unless `replaces`.
    pub(super) fn open(path: &Path, replaces: bool) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        if !replaces && path.exists() {
            bail!("{} is there already: choose another name, or --force", path.display());
        }
        let Some(name) = path.file_name() else { bail!("{} is not the name of a file", path.display()) };
        let mut begun = std::ffi::OsString::from(".");
        begun.push(name);
        begun.push(format!(".{}", std::process::id()));
        let begun = path.with_file_name(begun);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begun);
        let file = file.with_context(|| format!("cannot write {}", begun.display()))?;
        Ok(Self::File(Begun { file, begun, path: path.to_owned(), replaces }))
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Standard => io::stdout().lock().write_all(piece).context("cannot write to standard output"),
            Self::File(begun) => {
                begun.file.write_all(piece).with_context(|| format!("cannot write {}", begun.begun.display()))
            }
        }
    }

    /// Everything is there: the file gets its name. Tells that.
    pub(super) fn finish(self) -> anyhow::Result<String> {
        match self {
            Self::Standard => {
                io::stdout().flush().context("cannot write to standard output")?;
                Ok("standard output".to_owned())
            }
            Self::File(begun) => {
                begun.finish().with_context(|| format!("cannot write {}", begun.path.display()))?;
                Ok(begun.path.display().to_string())
            }
        }
    }
}

impl Begun {
    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, &self.begun, CWD, &self.path, flags)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Gone already if it was finished.
        _ = std::fs::remove_file(&self.begun);
    }
}
