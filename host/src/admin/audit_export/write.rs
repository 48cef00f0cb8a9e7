//! Where the copy is written to: a file, line by line, or a syslog daemon, message by message.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::Value;
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

use crate::config::AuditExport;
use crate::store::audit::{Found, Recorded};

/// How long a syslog daemon may take for one message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Facility `log audit`, severity `informational` (RFC 5424 §6.2.1).
const PRIORITY: u8 = 13 * 8 + 6;
/// Longest MSGID (RFC 5424 §6).
const MAX_MSGID: usize = 32;
/// MSGID of a row that cannot be read.
const UNREADABLE: &str = "unreadable";
/// What others than its owner may do with a file.
const OTHERS: u32 = 0o077;

pub(super) enum Target {
    File {
        path: PathBuf,
        open: Option<File>,
        /// Whether it was told that others can get at it.
        is_told: bool,
    },
    Syslog {
        path: PathBuf,
        open: Option<UnixDatagram>,
    },
}

/// Work on files. Its errors are all told before what follows: tokio's own files keep that of a write for the next call.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

impl Target {
    pub(super) fn new(target: &AuditExport) -> Self {
        match target {
            AuditExport::File(path) => Self::File { path: path.clone(), open: None, is_told: false },
            AuditExport::Syslog(path) => Self::Syslog { path: path.clone(), open: None },
        }
    }

    /// What it is called where a place is remembered.
    pub(super) fn name(&self) -> String {
        let kind = match self {
            Self::File { .. } => "file",
            Self::Syslog { .. } => "syslog",
        };
        format!("{kind}:{}", self.path().display())
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Syslog { path, .. } => path,
        }
    }

    pub(super) fn close(&mut self) {
        match self {
            Self::File { open, .. } => *open = None,
            Self::Syslog { open, .. } => *open = None,
        }
    }

    /// Writes lines, and notes the number of each whose row is now copied.
    pub(super) async fn write(
        &mut self,
        lines: &[(Value, Found)],
        written: &mut BTreeSet<u64>,
        stopping: &CancellationToken,
    ) -> io::Result<()> {
        match self {
            Self::File { path, open, is_told } => {
                let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
                let (at, earlier) = (path.clone(), open.take());
                let (file, mode) = blocking(move || append(&at, earlier, &text)).await?;
                *open = Some(file);
                written.extend(lines.iter().map(|(_, row)| row.sequence()));
                if mode & OTHERS != 0 && !std::mem::replace(is_told, true) {
                    tracing::warn!(path = %path.display(), "others than its owner can get at the copy of the audit trail");
                }
            }
            Self::Syslog { path, open } => {
                let socket = match open.take() {
                    Some(socket) => socket,
                    None => {
                        let socket = UnixDatagram::unbound()?;
                        socket.connect(&*path)?;
                        socket
                    }
                };
                for (line, row) in lines {
                    if stopping.is_cancelled() {
                        break;
                    }
                    let message = message(line, row);
                    let sent = tokio::time::timeout(PATIENCE, socket.send(message.as_bytes())).await;
                    sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    written.insert(row.sequence());
                }
                *open = Some(socket);
            }
        }
        Ok(())
    }
}

/// Appends to the file at this path, which may be open already. Tells which it is, and its mode.
fn append(path: &Path, open: Option<File>, text: &str) -> io::Result<(File, u32)> {
    let mut file = match open {
        Some(file) if is_at(&file, path) => file,
        Some(_) | None => open_file(path)?,
    };
    let mode = file.metadata()?.mode();
    write_durably(&mut file, text)?;
    Ok((file, mode))
}

pub(super) fn write_durably(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Whether the file is still what is at this path: whoever rotates logs has moved it away.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// Opens the file at its end. A line that was cut off is ended, so that what follows can be read.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let mut file = open_regular(path)?;
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Opens or makes a file, and nothing else that a path can lead to.
fn open_regular(path: &Path) -> io::Result<File> {
    // A pipe is not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = private().append(true).read(true).custom_flags(flags).open(path).map_err(|error| {
        let is_link = Errno::from_io_error(&error) == Some(Errno::LOOP);
        if is_link { io::Error::other("it is a symbolic link") } else { error }
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// RFC 5424 §6. The daemon knows the host; the text is JSON.
fn message(line: &Value, row: &Found) -> String {
    let event = match row {
        Found::Recorded(Recorded { entry, .. }) => entry.event.name(),
        Found::Unreadable { .. } => UNREADABLE,
    };
    let id = &event[..event.len().min(MAX_MSGID)];
    format!("<{PRIORITY}>1 {} - portcullis {} {id} - {line}", row.at(), std::process::id())
}
