//! The files with which a listener speaks TLS, read together.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::mistake::Fault;
use super::reference::read_text;
use crate::certificate::{Certificate, Unusable};
use crate::secret::Plaintext;

/// Largest file of certificates or of a key, in bytes.
const LARGEST_PEM: u64 = 512 * 1024;

/// Where a listener's certificate and its key are, and what they held when they were read.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub pair: Certificate,
    /// Whether every user of this machine can read the key.
    pub is_key_open: bool,
}

/// Which of the two files is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Certificate,
    Key,
}

impl ListenerTls {
    /// Reads both files. A fault tells which one it is about, and nothing of what is in it.
    pub(super) fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, (File, Fault)> {
        let chain = read_text(&certificate, LARGEST_PEM).map_err(|fault| (File::Certificate, fault))?;
        let secret = read_text(&key, LARGEST_PEM).map(Plaintext::new).map_err(|fault| (File::Key, fault))?;
        let pair = Certificate::read(&chain, &secret).map_err(|unusable| {
            let file = match unusable {
                Unusable::Certificate | Unusable::Chain => File::Certificate,
                Unusable::Key | Unusable::Pair => File::Key,
            };
            (file, Fault::new(format!("cannot be used: {unusable}")))
        })?;
        let is_key_open = is_open(&key);
        Ok(Self { certificate, key, pair, is_key_open })
    }

    /// The same files, as they are now.
    ///
    /// # Errors
    /// What is wrong with which file, in words for an operator.
    pub fn read_again(&self) -> Result<Self, String> {
        let again = Self::read(self.certificate.clone(), self.key.clone());
        again.map_err(|(file, fault)| {
            let path = match file {
                File::Certificate => &self.certificate,
                File::Key => &self.key,
            };
            format!("{} {}", path.display(), fault.message)
        })
    }

    /// Both files.
    pub fn files(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }
}

/// Whether others than owner and group may read the file.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// Of each listener that speaks TLS.
#[derive(Clone, Debug, Default)]
pub struct ListenersTls {
    pub public: Option<ListenerTls>,
    pub admin: Option<ListenerTls>,
}

impl ListenersTls {
    /// Those that there are, with the settings that name them.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &ListenerTls)> {
        let all = [("listen.public_tls", &self.public), ("listen.admin_tls", &self.admin)];
        all.into_iter().filter_map(|(name, tls)| tls.as_ref().map(|tls| (name, tls)))
    }

    /// Whether the same listeners speak TLS: which ones do is settled at the start.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.public.is_some() == other.public.is_some() && self.admin.is_some() == other.admin.is_some()
    }
}
