//! Compiled code on disk, so that a restart does not compile again what did not change.
//!
//! Machine code that is loaded is run, so whoever could write here could run anything as the gateway. The directory is
//! therefore the gateway's own (0700), each file carries a tag over its name and all of its bytes that only the holder of
//! the deployment secret can make, and the bytes that were checked are the bytes that are loaded. What does not
//! check is deleted and compiled again; whatever goes wrong here costs time and nothing else.
//!
//! Processes may share a directory: files appear whole, by a rename, and are never changed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use wasmtime::component::Component;

use super::engine::Runtime;
use crate::secret::{DeploymentSecret, Digest};

/// Most bytes of all files together. The compiled code of a large module has some 50 MB.
const MAX_BYTES: u64 = 1 << 30;
/// Largest file.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// What tags are for.
const PURPOSE: &str = "policy code 1";
/// Bytes of the length that a file begins with.
const LENGTH_BYTES: usize = 4;
/// Longest tag.
const MAX_TAG_BYTES: usize = 512;
const SUFFIX: &str = "code";
/// Age after which the file of a process that ended while it wrote is removed, in seconds.
const LEFT_BEHIND_S: u64 = 3600;

/// A directory of compiled code.
#[derive(Clone, Debug)]
pub struct CodeCache {
    directory: Arc<Path>,
    secret: Arc<DeploymentSecret>,
    max_bytes: u64,
}

/// What a file is the compiled code of: component, engine and version of the gateway.
struct Key(String);

impl CodeCache {
    /// Opens the directory, and makes it if it is not there.
    pub fn open(directory: &Path, secret: Arc<DeploymentSecret>) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let found = fs::metadata(directory)?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own || found.mode() & 0o077 != 0 {
            let problem =
                format!("{} is not private: it must be owned by this user, with mode 0700", directory.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        Ok(Self { directory: directory.into(), secret, max_bytes: MAX_BYTES })
    }

    #[cfg(test)]
    pub(super) fn bounded(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// The compiled component of these bytes, if it is here.
    pub(super) fn get(&self, runtime: &Runtime, component: &[u8]) -> Option<Component> {
        let key = Key::of(runtime, component);
        let path = self.path(&key);
        let file = read(&path).ok()?;
        let loaded = self.checked(&key, &file).and_then(|code| {
            #[expect(unsafe_code, reason = "compiled code can be loaded in no other way")]
            // SAFETY: `code` has a tag that only a holder of the deployment secret can make, over exactly these bytes,
            // which are not read again; `Self::put` makes it for what wasmtime compiled, and nothing else does for
            // this purpose. Code of another version or for another machine is refused by wasmtime itself.
            let component = unsafe { Component::deserialize(&runtime.wasm, code) };
            component.ok()
        });
        match loaded {
            Some(component) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the time of a file is the file system's, and decides nothing"
                )]
                let now = SystemTime::now();
                // It says when it was last of use.
                _ = File::open(&path).and_then(|file| file.set_modified(now));
                Some(component)
            }
            None => {
                tracing::warn!(file = %path.display(), "compiled code does not check and is removed");
                _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps the compiled component of these bytes.
    pub(super) fn put(&self, runtime: &Runtime, component: &[u8], compiled: &Component) {
        if let Err(error) = self.try_put(&Key::of(runtime, component), compiled) {
            tracing::warn!(directory = %self.directory.display(), %error, "compiled code cannot be kept");
        }
    }

    fn try_put(&self, key: &Key, compiled: &Component) -> io::Result<()> {
        let code = compiled.serialize().map_err(io::Error::other)?;
        if code.len() as u64 > MAX_FILE_BYTES.min(self.max_bytes) {
            return Ok(());
        }
        let tag = self.secret.sign(PURPOSE, &tagged(key, &code));
        let length = u32::try_from(tag.len()).expect("a tag is short").to_le_bytes();
        // Named after the process and a number of its own, so that no two write the same file.
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let draft = self.directory.join(format!("{}.{}.{number}.draft", key.0, std::process::id()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            for part in [&length[..], tag.as_bytes(), &code] {
                file.write_all(part)?;
            }
            drop(file);
            fs::rename(&draft, self.path(key))
        };
        write().inspect_err(|_| _ = fs::remove_file(&draft))?;
        self.make_room()
    }

    /// The code of a file whose tag is right.
    fn checked<'a>(&self, key: &Key, file: &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = file.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_TAG_BYTES)?;
        let (tag, code) = rest.split_at_checked(length)?;
        let opened = self.secret.open(PURPOSE, std::str::from_utf8(tag).ok()?)?;
        (opened == tagged(key, code)).then_some(code)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{}.{SUFFIX}", key.0))
    }

    /// Removes what was of no use for longest, until the rest is within bounds; and what was left behind.
    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // Another process may have removed it meanwhile.
            let Ok(found) = entry.metadata() else { continue };
            let used = found.modified()?;
            let age = used.elapsed().unwrap_or_default().as_secs();
            match entry.path().extension().and_then(|extension| extension.to_str()) {
                Some(SUFFIX) => files.push((used, found.len(), entry.path())),
                Some("draft") if age > LEFT_BEHIND_S => _ = fs::remove_file(entry.path()),
                _ => {}
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in files {
            if bytes <= self.max_bytes {
                break;
            }
            _ = fs::remove_file(path);
            bytes -= size;
        }
        Ok(())
    }
}

static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl Key {
    fn of(runtime: &Runtime, component: &[u8]) -> Self {
        let mut engine = DefaultHasher::new();
        runtime.wasm.precompile_compatibility_hash().hash(&mut engine);
        let text = format!("{} {:016x} {}", env!("CARGO_PKG_VERSION"), engine.finish(), Digest::of(component).to_hex());
        Self(Digest::of(text.as_bytes()).to_hex())
    }
}

/// What a tag is made over.
fn tagged(key: &Key, code: &[u8]) -> Vec<u8> {
    [key.0.as_bytes(), Digest::of(code).as_bytes()].concat()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file =
        OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
