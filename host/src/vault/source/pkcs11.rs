//! A key-encryption key in a PKCS#11 token (OASIS PKCS #11 v2.40): an AES key that never leaves it.
//!
//! Data keys are encrypted by it with AES-GCM; the root comes from it by AES-CMAC (the KDF in counter mode of NIST SP 800-108,
//! §4.1). The token is asked on a thread of its own, one question at a time, in a session for each: tokens end sessions when
//! they please. One that hangs costs that thread, and is given no more questions than its queue holds.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11 as Module};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{KeySource, Root, SourceError};
use crate::env::Env;
use crate::secret::{Plaintext, Sealed, SecretBytes};

/// What roots are made of.
const ROOT_LABEL: &[u8] = b"portcullis vault root 1";
const IV_BYTES: usize = 12;
const TAG_BITS: u64 = 128;

/// Questions to a token that wait: more than the vault asks at once.
const MAX_WAITING: usize = 256;

/// An AES key in a token. Its thread ends with it.
pub(in crate::vault) struct Pkcs11 {
    questions: mpsc::SyncSender<Question>,
    env: Env,
}

type Question = Box<dyn FnOnce(&mut Token) + Send>;

struct Token {
    module: PathBuf,
    /// Label of the token.
    token: String,
    /// Label of the key.
    key: String,
    pin: Plaintext,
    /// Loaded on first use.
    loaded: Option<Module>,
}

impl Pkcs11 {
    /// `None` if there is no thread to be had.
    pub(in crate::vault) fn new(module: PathBuf, token: String, key: String, pin: Plaintext, env: Env) -> Option<Self> {
        let mut token = Token { module, token, key, pin, loaded: None };
        let (questions, asked) = mpsc::sync_channel::<Question>(MAX_WAITING);
        let answer = move || asked.into_iter().for_each(|question| question(&mut token));
        thread::Builder::new().name("vault-token".to_owned()).spawn(answer).ok()?;
        Some(Self { questions, env })
    }

    /// Asks the token on its thread.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Session, ObjectHandle) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let (told, answer) = oneshot::channel();
        let question = move |token: &mut Token| {
            // Whoever asked may have given up.
            if !told.is_closed() {
                _ = told.send(token.ask(question));
            }
        };
        let queued = self.questions.try_send(Box::new(question));
        queued.map_err(|_| unavailable("too many questions to the token are waiting"))?;
        answer.await.map_err(|_| unavailable("the question to the token was interrupted"))?
    }
}

impl Token {
    fn ask<T>(
        &mut self,
        question: impl FnOnce(&Session, ObjectHandle) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        if self.loaded.is_none() {
            self.loaded = Some(self.load()?);
        }
        let Some(module) = &self.loaded else { return Err(unavailable("the module is not loaded")) };
        let session = self.open(module)?;
        let key = self.find(&session)?;
        question(&session, key)
    }

    fn load(&self) -> Result<Module, SourceError> {
        let module = Module::new(&self.module).map_err(failed)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // Another key of the ring is in the same module.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
            Err(error) => Err(failed(error)),
        }
    }

    fn open(&self, module: &Module) -> Result<Session, SourceError> {
        for slot in module.get_slots_with_initialized_token().map_err(failed)? {
            if module.get_token_info(slot).map_err(failed)?.label() != self.token {
                continue;
            }
            let session = module.open_ro_session(slot).map_err(failed)?;
            let pin = AuthPin::new(self.pin.expose().into());
            return match session.login(UserType::User, Some(&pin)) {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
                Err(error) => Err(failed(error)),
            };
        }
        Err(unavailable(&format!("there is no token called {:?}", self.token)))
    }

    fn find(&self, session: &Session) -> Result<ObjectHandle, SourceError> {
        let wanted = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(self.key.as_bytes().to_vec()),
        ];
        match session.find_objects(&wanted).map_err(failed)?[..] {
            [key] => Ok(key),
            [] => Err(unavailable(&format!("the token has no AES key called {:?}", self.key))),
            _ => Err(unavailable(&format!("the token has more than one AES key called {:?}", self.key))),
        }
    }
}

impl KeySource for Pkcs11 {
    fn kind(&self) -> &'static str {
        "pkcs11"
    }

    fn wrap<'a>(&'a self, key: &'a SecretBytes) -> BoxFuture<'a, Result<Sealed, SourceError>> {
        let (plaintext, mut iv) = (key.clone(), self.env.random::<IV_BYTES>());
        Box::pin(self.ask(move |session, key| {
            let parameters = GcmParams::new(&mut iv, &[], TAG_BITS.into()).map_err(failed)?;
            let ciphertext =
                session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext.expose()).map_err(failed)?;
            // Some tokens insist on an initialization vector of their own, and have written it there.
            Ok(Sealed::from_bytes([&iv[..], &ciphertext].concat()))
        }))
    }

    fn unwrap<'a>(&'a self, wrapped: &'a Sealed) -> BoxFuture<'a, Result<SecretBytes, SourceError>> {
        let wrapped = wrapped.clone();
        Box::pin(self.ask(move |session, key| {
            let split = wrapped.as_bytes().split_first_chunk::<IV_BYTES>();
            let (iv, ciphertext) = split.ok_or_else(|| SourceError::NotOurs("it is cut short".to_owned()))?;
            let mut iv = *iv;
            let parameters = GcmParams::new(&mut iv, &[], TAG_BITS.into()).map_err(failed)?;
            session.decrypt(&Mechanism::AesGcm(parameters), key, ciphertext).map(SecretBytes::new).map_err(|error| {
                match error {
                    Error::Pkcs11(
                        RvError::EncryptedDataInvalid
                        | RvError::EncryptedDataLenRange
                        | RvError::GeneralError
                        | RvError::FunctionFailed,
                        _,
                    ) => SourceError::Refused(error.to_string()),
                    error => failed(error),
                }
            })
        }))
    }

    fn root(&self, version: Option<u32>) -> BoxFuture<'_, Result<Root, SourceError>> {
        Box::pin(self.ask(move |session, key| {
            if version.is_some_and(|version| version != 0) {
                return Err(SourceError::NotOurs("the key has no versions".to_owned()));
            }
            let mut secret = Zeroizing::new(Vec::with_capacity(32));
            for counter in [1_u32, 2] {
                // Counter ‖ label ‖ 0 ‖ length in bits.
                let block = [&counter.to_be_bytes(), ROOT_LABEL, &[0], &256_u32.to_be_bytes()].concat();
                let mac = Zeroizing::new(session.sign(&Mechanism::AesCMac, key, &block).map_err(failed)?);
                secret.extend_from_slice(&mac);
            }
            Ok(Root { version: 0, secret: SecretBytes::new(secret.to_vec()) })
        }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
fn failed(error: Error) -> SourceError {
    SourceError::Unavailable(error.to_string())
}

fn unavailable(what: &str) -> SourceError {
    SourceError::Unavailable(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

    /// A token of SoftHSM2 with an AES key, in a directory of its own. SoftHSM2 reads where its tokens are from the
    /// environment when it is loaded, which is why all of this is one test in a process of its own.
    fn token(dir: &std::path::Path) -> (Module, cryptoki::slot::Slot) {
        let module = Module::new(MODULE).expect("SoftHSM2 is installed (Debian: softhsm2)");
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        assert!(dir.exists());
        let slot = module.get_slots_with_token().unwrap()[0];
        let (officer, user) = (AuthPin::new("officer-pin".into()), AuthPin::new("user-pin".into()));
        module.init_token(slot, &officer, "vault").unwrap();
        let session = module.open_rw_session(slot).unwrap();
        session.login(UserType::So, Some(&officer)).unwrap();
        session.init_pin(&user).unwrap();
        session.logout().unwrap();
        session.login(UserType::User, Some(&user)).unwrap();
        for label in ["kek", "other"] {
            let template = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Sign(true),
                Attribute::ValueLen(32.into()),
                Attribute::Label(label.as_bytes().to_vec()),
            ];
            session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
        }
        session.logout().unwrap();
        (module, slot)
    }

    #[tokio::test]
    #[ignore = "needs SoftHSM2 with an empty directory of tokens: tests/run vault"]
    async fn a_token_wraps_and_unwraps() {
        let configured = crate::config::process_environment("SOFTHSM2_CONF");
        let file = configured.expect("SOFTHSM2_CONF names the configuration of SoftHSM2: see docs/testing.md");
        let (module, _slot) = token(std::path::Path::new(&file).parent().unwrap());
        let source = |token: &str, key: &str, pin: &str| {
            Pkcs11::new(MODULE.into(), token.to_owned(), key.to_owned(), Plaintext::new(pin), Env::system()).unwrap()
        };
        let kek = source("vault", "kek", "user-pin");
        kek.health().await.unwrap();
        let key = SecretBytes::new((0..32).collect());
        let (one, other) = (kek.wrap(&key).await.unwrap(), kek.wrap(&key).await.unwrap());
        assert_ne!(one, other);
        assert!(kek.unwrap(&one).await.unwrap() == key);
        let stranger = source("vault", "other", "user-pin");
        assert!(matches!(stranger.unwrap(&one).await, Err(SourceError::Refused(_))));
        for position in 0..one.as_bytes().len() {
            let mut bytes = one.as_bytes().to_vec();
            bytes[position] ^= 1;
            let unwrapped = kek.unwrap(&Sealed::from_bytes(bytes)).await;
            assert!(matches!(unwrapped, Err(SourceError::Refused(_))), "byte {position}: {unwrapped:?}");
        }
        let root = kek.root(None).await.unwrap();
        assert_eq!(root.secret.expose().len(), 32);
        assert!(root.secret == kek.root(Some(0)).await.unwrap().secret);
        assert!(root.secret != stranger.root(None).await.unwrap().secret);
        for (absent, what) in [
            (source("none", "kek", "user-pin"), "no token called"),
            (source("vault", "none", "user-pin"), "no AES key called"),
        ] {
            let error = absent.wrap(&key).await.unwrap_err();
            assert!(matches!(&error, SourceError::Unavailable(text) if text.contains(what)), "{error}");
        }
        drop(module);
    }
}
