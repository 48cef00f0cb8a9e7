//! Files with secrets: whose they are, and who else can read them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Subject;
use super::check::Check;
use crate::config::VaultKeySource;
use crate::gateway::OPERATOR_TOKEN;

const AREA: &str = "files";
/// Of a file that only its owner may read.
const OTHERS_READ: u32 = 0o077;
/// Of a file that only its owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// Who may do more than is good with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// It holds a secret.
    Secret,
    /// It decides what the gateway does.
    Authority,
}

#[expect(clippy::unused_async, reason = "all areas are looked at alike")]
pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let config = &subject.config;
    let keys = config.vault.keys.iter().filter_map(|key| match &key.source {
        VaultKeySource::File(path) | VaultKeySource::Age(path) => Some(path.clone()),
        VaultKeySource::Transit { token_file, .. } => token_file.clone(),
        // systemd made it for this service alone.
        VaultKeySource::Credential(_)
        | VaultKeySource::None
        | VaultKeySource::Environment { .. }
        | VaultKeySource::Pkcs11 { .. } => None,
    });
    let secrets = keys.chain([subject.data_dir().join(OPERATOR_TOKEN)]).chain(store_file(subject));
    let files = secrets.map(|path| (path, Care::Secret));
    let files = files.chain([(subject.data_dir(), Care::Secret)]);
    let files = files.chain(config.file.clone().map(|path| (path, Care::Authority)));
    let own = std::fs::metadata(subject.data_dir()).ok().map(|metadata| metadata.uid());
    let checks: Vec<Check> = files.filter_map(|(path, care)| one(&path, care, own)).collect();
    if checks.is_empty() { vec![Check::ok(AREA, "only their owner can read what holds secrets")] } else { checks }
}

fn store_file(subject: &Subject) -> Option<PathBuf> {
    match &subject.config.store {
        crate::config::StoreUrl::Redb(path) => Some(path.clone()),
        crate::config::StoreUrl::Memory | crate::config::StoreUrl::Postgres(_) => None,
    }
}

/// What is wrong with a file, if it is there. `own` is whose files the gateway's are.
fn one(path: &Path, care: Care, own: Option<u32>) -> Option<Check> {
    match std::fs::metadata(path) {
        // What is missing is told where it is missed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let finding = format!("{} cannot be looked at: {error}", path.display());
            Some(Check::warning(AREA, finding, "run this as the user that the gateway runs as, or as root"))
        }
        Ok(metadata) => judge(path, care, own, &metadata),
    }
}

fn judge(path: &Path, care: Care, own: Option<u32>, metadata: &Metadata) -> Option<Check> {
    let mode = metadata.mode() & 0o777;
    let path = path.display();
    let (others, what, mend) = match care {
        Care::Secret if metadata.is_dir() => (OTHERS_WRITE, "changed by others", "chmod 700"),
        Care::Secret => (OTHERS_READ, "read by others", "chmod 600"),
        Care::Authority => (OTHERS_WRITE, "changed by others", "chmod go-w"),
    };
    if mode & others != 0 {
        return Some(Check::problem(
            AREA,
            format!("{path} has mode {mode:o}: it can be {what}"),
            format!("{mend} {path}"),
        ));
    }
    let is_strange = own.is_some_and(|own| metadata.uid() != own && metadata.uid() != 0);
    is_strange.then(|| {
        let owner = metadata.uid();
        let finding = format!("{path} belongs to user {owner}, and the data directory to another one");
        Check::problem(AREA, finding, format!("chown it to the user that the gateway runs as: {path}"))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn what_others_can_read_or_change_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("operator-token");
        fs::write(&file, "x").unwrap();
        let own = fs::metadata(&file).unwrap().uid();
        for (mode, care, is_told) in [
            (0o600, Care::Secret, false),
            (0o400, Care::Secret, false),
            (0o640, Care::Secret, true),
            (0o604, Care::Secret, true),
            (0o644, Care::Authority, false),
            (0o664, Care::Authority, true),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let check = one(&file, care, Some(own));
            assert_eq!(check.is_some(), is_told, "{mode:o} {care:?}: {check:?}");
            assert!(check.is_none_or(|check| check.grade == Grade::Problem && check.mend.is_some()));
        }
        assert_eq!(one(&dir.path().join("missing"), Care::Secret, Some(own)), None);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let stranger = one(&file, Care::Secret, Some(own + 1));
        assert_eq!(stranger.is_some(), own != 0, "what root owns is fine");
    }
}
