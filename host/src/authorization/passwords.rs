//! Local passwords: which will do, how they are kept, and that checking them costs no more than the gateway has.
//!
//! They are kept as Argon2id (RFC 9106) in PHC form. Each computation takes 19 MiB and a core for a while, so that as many run
//! at once as there are cores, some wait, and whoever comes then is told to come again (`docs/threat-model.md` row T20).
//! Somebody whom nobody knows costs as much as somebody who mistypes (row T19).

use std::sync::Arc;

use argon2::password_hash::phc;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Fault;
use crate::env::Env;
use crate::identity::user::{Login, PasswordHash};
use crate::secret::Plaintext;

/// Fewest characters of a password.
pub const MIN_CHARS: usize = 12;
/// Longest password, in bytes.
pub const MAX_BYTES: usize = 256;
/// What one computation costs: 19 MiB, two passes, one lane (RFC 9106 §4; the least that OWASP advises).
const STRENGTH: Params = Params::DEFAULT;
/// Computations that run or wait, for each that may run.
const PLACES: usize = 16;

/// Why a password will not do. There are no rules of composition (NIST SP 800-63B §3.1.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    #[error("a password has at least {MIN_CHARS} characters: a few words are a good one")]
    TooShort,
    #[error("a password has at most {MAX_BYTES} bytes")]
    TooLong,
    #[error("the login is no password")]
    IsLogin,
}

/// Whether a password will do.
///
/// # Errors
/// Why it will not.
pub fn check_rules(password: &Plaintext, login: Option<&Login>) -> Result<(), Weak> {
    let text = password.expose();
    if text.len() > MAX_BYTES {
        return Err(Weak::TooLong);
    }
    if text.chars().count() < MIN_CHARS {
        return Err(Weak::TooShort);
    }
    let is_login = login.is_some_and(|login| text.trim().eq_ignore_ascii_case(login.as_str()));
    if is_login { Err(Weak::IsLogin) } else { Ok(()) }
}

/// Where passwords are computed. Clones share it.
#[derive(Clone)]
pub struct Passwords {
    env: Env,
    running: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Of a password that nobody has.
    nobodys: Arc<phc::PasswordHash>,
}

/// The right to compute one, given back when it is done.
struct Turn {
    _place: OwnedSemaphorePermit,
    _slot: OwnedSemaphorePermit,
}

impl Passwords {
    /// As many at once as there are cores.
    pub fn new(env: Env) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_slots(env, cores)
    }

    fn with_slots(env: Env, slots: usize) -> Self {
        let mut nobodys = phc::PasswordHash {
            algorithm: argon2::ARGON2ID_IDENT,
            version: Some(argon2::Version::default().into()),
            params: phc::ParamsString::try_from(&STRENGTH).expect("our own parameters can be written"),
            salt: None,
            hash: None,
        };
        // Nothing has this digest: what is computed differs from 32 random bytes.
        let (salt, hash): ([u8; 16], [u8; 32]) = (env.random(), env.random());
        nobodys.salt = phc::Salt::new(&salt).ok();
        nobodys.hash = phc::Output::new(&hash).ok();
        Self {
            env,
            running: Arc::new(Semaphore::new(slots)),
            places: Arc::new(Semaphore::new(slots * PLACES)),
            nobodys: Arc::new(nobodys),
        }
    }

    /// What is kept of a password.
    ///
    /// # Errors
    /// [`Fault::Busy`] if too many wait.
    pub async fn hash(&self, password: Plaintext) -> Result<PasswordHash, Fault> {
        let salt: [u8; 16] = self.env.random();
        let hash = self.compute(move || {
            let hash = Argon2::from(STRENGTH).hash_password_with_salt(password.expose().as_bytes(), &salt);
            hash.expect("a salt of 16 bytes and a bounded password are within Argon2's limits").to_string()
        });
        Ok(PasswordHash::parse(&hash.await?).expect("Argon2id in PHC form has about 100 bytes"))
    }

    /// Whether this is the password that is kept. Without one it is not, and takes as long to say so.
    ///
    /// # Errors
    /// [`Fault::Busy`] if too many wait.
    pub async fn verify(&self, password: Plaintext, kept: Option<&PasswordHash>) -> Result<bool, Fault> {
        // What cannot be read was not written by us, and opens nothing.
        let parsed = kept.and_then(|kept| phc::PasswordHash::new(kept.expose()).ok());
        let hash = parsed.map_or_else(|| self.nobodys.clone(), Arc::new);
        self.compute(move || {
            let text = password.expose().as_bytes();
            let is_whole = text.len() <= MAX_BYTES;
            let is_right = Argon2::default().verify_password(&text[..text.len().min(MAX_BYTES)], &*hash).is_ok();
            is_right && is_whole
        })
        .await
    }

    /// Whether a password was kept when less was asked of a computation than now.
    pub fn is_outdated(kept: &PasswordHash) -> bool {
        let params = phc::PasswordHash::new(kept.expose()).ok().and_then(|hash| Params::try_from(&hash).ok());
        params.is_none_or(|params| params.m_cost() < STRENGTH.m_cost() || params.t_cost() < STRENGTH.t_cost())
    }

    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Fault::Busy)?;
        let slot = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Fault::Busy)?;
        let turn = Turn { _place: place, _slot: slot };
        // Whoever asked may leave; the work ends all the same, and has its turn until then.
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|_| Fault::Busy)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    fn password(text: &str) -> Plaintext {
        Plaintext::new(text)
    }

    #[test]
    fn a_password_is_long_enough_and_not_the_login() {
        let login = Login::parse("ada.lovelace@example.com").unwrap();
        let check = |text: &str| check_rules(&password(text), Some(&login));
        assert_eq!(check("correct horse"), Ok(()));
        assert_eq!(check("äöüäöüäöüäöü"), Ok(()));
        assert_eq!(check("aaaaaaaaaaaa"), Ok(()));
        assert_eq!(check("äöüäöüäöüäö"), Err(Weak::TooShort));
        assert_eq!(check(""), Err(Weak::TooShort));
        assert_eq!(check(&"x".repeat(257)), Err(Weak::TooLong));
        assert_eq!(check(&"x".repeat(256)), Ok(()));
        assert_eq!(check("Ada.Lovelace@example.com "), Err(Weak::IsLogin));
        assert_eq!(check_rules(&password("ada.lovelace@example.com"), None), Ok(()));
    }

    #[tokio::test]
    async fn what_is_kept_opens_with_its_password_and_no_other() {
        let passwords = Passwords::with_slots(Env::system(), 2);
        let kept = passwords.hash(password("correct horse")).await.unwrap();
        assert!(kept.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", kept.expose());
        assert_ne!(kept, passwords.hash(password("correct horse")).await.unwrap(), "each has its own salt");
        let verify = async |text: &str, kept| passwords.verify(password(text), kept).await.unwrap();
        assert!(verify("correct horse", Some(&kept)).await);
        for wrong in ["", "correct hors", "correct horse ", "Correct horse"] {
            assert!(!verify(wrong, Some(&kept)).await, "{wrong:?}");
        }
        let long = "x".repeat(MAX_BYTES);
        let kept = passwords.hash(password(&long)).await.unwrap();
        assert!(verify(&long, Some(&kept)).await);
        assert!(!verify(&format!("{long}y"), Some(&kept)).await, "nothing is cut off in silence");
        let unreadable = PasswordHash::parse("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA").unwrap();
        assert!(!verify("correct horse", Some(&unreadable)).await);
    }

    /// A vector of the reference implementation, so that what is kept can be moved.
    #[tokio::test]
    async fn strings_of_other_programs_are_read() {
        let kept = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let kept = PasswordHash::parse(kept).unwrap();
        let passwords = Passwords::with_slots(Env::system(), 1);
        assert!(passwords.verify(password("password"), Some(&kept)).await.unwrap());
        assert!(!Passwords::is_outdated(&kept));
    }

    #[test]
    fn what_was_cheaper_is_outdated() {
        let outdated = |params: &str| {
            Passwords::is_outdated(
                &PasswordHash::parse(&format!(
                    "$argon2id$v=19${params}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
                ))
                .unwrap(),
            )
        };
        assert!(outdated("m=4096,t=2,p=1") && outdated("m=19456,t=1,p=1"));
        assert!(!outdated("m=19456,t=2,p=1"));
    }

    #[tokio::test]
    async fn somebody_unknown_costs_as_much_as_a_mistyped_password() {
        let passwords = Passwords::with_slots(Env::system(), 1);
        let kept = passwords.hash(password("correct horse")).await.unwrap();
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            for (at, kept) in [None, Some(&kept)].into_iter().enumerate() {
                let began = Instant::now();
                assert!(!passwords.verify(password("wrong password"), kept).await.unwrap());
                times[at].push(began.elapsed());
            }
        }
        // The least of each is what the work takes, whatever else the machine does.
        let [unknown, known] = times.map(|times| times.iter().min().unwrap().as_secs_f64());
        assert!(unknown > known / 3.0 && known > unknown / 3.0, "{unknown} and {known}");
    }

    #[tokio::test]
    async fn so_many_run_and_wait_and_the_others_are_told_to_come_again() {
        let passwords = Passwords::with_slots(Env::system(), 1);
        let held = Arc::clone(&passwords.running).acquire_owned().await.unwrap();
        let mut waiting: Vec<_> =
            (0..PLACES).map(|_| Box::pin(passwords.verify(password("wrong password"), None))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let refused = passwords.verify(password("wrong password"), None).await;
        assert!(matches!(refused, Err(Fault::Busy)));
        drop(held);
        assert!(join_all(waiting.drain(..2)).await.into_iter().all(|answer| !answer.unwrap()));
        // Whoever leaves gives the place to somebody else.
        drop(waiting);
        assert!(passwords.verify(password("wrong password"), None).await.is_ok());
    }
}
