//! What two replicas say to each other, as bytes: a request in one sealed piece, and its answer in sealed frames.
//!
//! Everything is under keys that are derived from the deployment secret and the nonce of the request, one for the request
//! and one for each replica that may answer it: nobody else can make, change, cut short or read it, and no key is used
//! twice, whoever gets the same request. Pure, and deliberately without a clock: that a request is recent and came once
//! is for [`super::Replicas::receive`] to find out.
//!
//! A request is `version ‖ nonce ‖ AES-256-GCM(length of the envelope ‖ envelope ‖ body)`. An answer is the id of who
//! answers, in clear, and a row of frames `length ‖ AES-256-GCM(kind ‖ data)`, numbered by their nonces; the last one
//! says that it is the last.

use std::net::IpAddr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::env::Timestamp;
use crate::identity::{Pass, TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, ReplicaId, TokenId};
use crate::secret::DeploymentSecret;

/// What this program speaks. Another one is refused like a forgery.
const VERSION: u8 = 1;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 16;
/// Largest envelope: method, path and headers.
const MAX_ENVELOPE: usize = 256 * 1024;
/// Bytes that a sealed request may have besides the caller's body.
pub(crate) const OVERHEAD: usize = MAX_ENVELOPE + 1_024;
/// Data of one frame.
const MAX_DATA: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
/// Bytes of the length before a frame, and of the one before an envelope.
const LENGTH_BYTES: usize = 4;
/// Bytes of the id of who answers.
const ANSWERER_BYTES: usize = 24;

/// Makes a request's keys its own.
pub(super) type RequestNonce = [u8; NONCE_BYTES];

/// A request without its body.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    pub(super) from: ReplicaId,
    /// For nobody else. `None` asks whoever is there who that is.
    pub(super) to: Option<ReplicaId>,
    /// When it was sent, in milliseconds since the epoch.
    pub(super) at_ms: u64,
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum What {
    /// "Who are you?"
    Who,
    /// A caller's request.
    Request {
        method: String,
        /// Path and query.
        target: String,
        headers: Vec<(String, String)>,
        /// Whom the sender authenticated.
        principal: String,
        /// What a token gave to that one, if one let it in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pass: Option<Box<Given>>,
        /// Where that one's connection came from.
        peer: Option<IpAddr>,
    },
}

/// What an access token gave to a caller. The token itself stays where it was presented.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    token: String,
    grant: String,
    client: String,
    scopes: Vec<String>,
    tools: Vec<Vec<String>>,
    claims: Option<String>,
    issued_ms: u64,
    expires_ms: u64,
    epoch: u64,
}

impl From<&Pass> for Given {
    fn from(pass: &Pass) -> Self {
        let Pass { token, grant, client, scopes, tools, claims, issued, expires, epoch } = pass;
        Self {
            token: token.as_str().to_owned(),
            grant: grant.as_str().to_owned(),
            client: client.as_str().to_owned(),
            scopes: scopes.to_vec(),
            tools: tools.to_texts(),
            claims: claims.as_deref().map(str::to_owned),
            issued_ms: issued.as_millis(),
            expires_ms: expires.as_millis(),
            epoch: *epoch,
        }
    }
}

impl TryFrom<Given> for Pass {
    type Error = Damaged;

    fn try_from(given: Given) -> Result<Self, Damaged> {
        let Given { token, grant, client, scopes, tools, claims, issued_ms, expires_ms, epoch } = given;
        Ok(Self {
            token: TokenId::parse(&token).ok_or(Damaged)?,
            grant: GrantId::parse(&grant).ok_or(Damaged)?,
            client: ClientId::parse(&client).ok_or(Damaged)?,
            scopes: TokenList::parse(scopes).map_err(|_| Damaged)?,
            tools: ToolScope::parse(&tools).ok_or(Damaged)?,
            claims: claims.map(Into::into),
            issued: Timestamp::from_millis(issued_ms),
            expires: Timestamp::from_millis(expires_ms),
            epoch,
        })
    }
}

/// How an answer begins.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(super) enum Head {
    /// The replica that it is for is not here, and nothing was done here.
    NotHere,
    /// The body follows. Only from whom the request was for.
    Answer { status: u16, headers: Vec<(String, String)> },
}

/// Something between replicas that is not as it should be: forged, cut short, or of another version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not what a replica of this deployment sends")]
pub(super) struct Damaged;

/// Headers as text, byte for byte: each byte is the character of the same number.
pub(super) fn write_headers<'a>(
    headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
    headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// What [`write_headers`] wrote.
pub(super) fn read_headers(headers: &[(String, String)]) -> Result<HeaderMap, Damaged> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Damaged)?;
        let bytes = value.chars().map(|character| u8::try_from(u32::from(character)).map_err(|_| Damaged));
        let bytes = bytes.collect::<Result<Vec<u8>, Damaged>>()?;
        map.append(name, HeaderValue::from_bytes(&bytes).map_err(|_| Damaged)?);
    }
    Ok(map)
}

fn key(bytes: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, bytes);
    LessSafeKey::new(key.expect("a SHA-256 tag is as long as an AES-256 key"))
}

fn key_of_request(secret: &DeploymentSecret, nonce: &RequestNonce) -> LessSafeKey {
    key(&secret.derive("request between replicas", nonce))
}

/// What the keys of all who may answer one request are derived from.
struct AnswerSecret(DeploymentSecret);

impl AnswerSecret {
    fn new(secret: &DeploymentSecret, nonce: &RequestNonce) -> Self {
        Self(DeploymentSecret::new(&secret.derive("answer between replicas", nonce)))
    }

    /// Two that answer the same request number their frames alike: they must not have the same key.
    fn key_of(&self, answerer: &[u8]) -> LessSafeKey {
        key(&self.0.derive("answerer", answerer))
    }
}

fn numbered(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals a request, under a nonce that is used for nothing else. `None` if its envelope is too large.
pub(super) fn seal(
    secret: &DeploymentSecret,
    nonce: &RequestNonce,
    envelope: &Envelope,
    body: &[u8],
) -> Option<(Bytes, Opener)> {
    let to = envelope.to.clone();
    let envelope = serde_json::to_vec(envelope).expect("our own types serialise");
    let length = u32::try_from(envelope.len()).ok().filter(|_| envelope.len() <= MAX_ENVELOPE)?;
    let mut sealed = Vec::with_capacity(LENGTH_BYTES + envelope.len() + body.len() + TAG_BYTES);
    sealed.extend_from_slice(&length.to_be_bytes());
    sealed.extend_from_slice(&envelope);
    sealed.extend_from_slice(body);
    let key = key_of_request(secret, nonce);
    key.seal_in_place_append_tag(numbered(0), Aad::from([VERSION]), &mut sealed)
        .expect("requests are far below the limit of AES-GCM");
    let mut message = BytesMut::with_capacity(1 + NONCE_BYTES + sealed.len());
    message.put_u8(VERSION);
    message.put_slice(nonce);
    message.put_slice(&sealed);
    Some((message.freeze(), Opener::new(AnswerSecret::new(secret, nonce), to)))
}

/// A request that was sealed with our secret.
pub(super) struct Opened {
    pub(super) nonce: RequestNonce,
    pub(super) envelope: Envelope,
    pub(super) body: Bytes,
    pub(super) sealer: Sealer,
}

/// Opens what [`seal`] made, for this replica to answer.
pub(super) fn open(secret: &DeploymentSecret, answerer: &ReplicaId, mut message: Bytes) -> Result<Opened, Damaged> {
    if message.len() < 1 + NONCE_BYTES + TAG_BYTES + LENGTH_BYTES || message.get_u8() != VERSION {
        return Err(Damaged);
    }
    let mut nonce = [0; NONCE_BYTES];
    message.copy_to_slice(&mut nonce);
    let mut sealed = Vec::from(message);
    let key = key_of_request(secret, &nonce);
    let opened = key.open_in_place(numbered(0), Aad::from([VERSION]), &mut sealed).map_err(|_| Damaged)?;
    let length = opened.len();
    sealed.truncate(length);
    let mut opened = Bytes::from(sealed);
    let length = usize::try_from(opened.get_u32()).map_err(|_| Damaged)?;
    if length > opened.len().min(MAX_ENVELOPE) {
        return Err(Damaged);
    }
    let envelope = opened.split_to(length);
    let envelope = serde_json::from_slice(&envelope).map_err(|_| Damaged)?;
    let sealer = Sealer::new(&AnswerSecret::new(secret, &nonce), answerer);
    Ok(Opened { nonce, envelope, body: opened, sealer })
}

const HEAD: u8 = 0;
const DATA: u8 = 1;
const END: u8 = 2;

/// Writes the frames of one answer.
pub(super) struct Sealer {
    answerer: ReplicaId,
    key: LessSafeKey,
    next: u64,
}

impl Sealer {
    fn new(secret: &AnswerSecret, answerer: &ReplicaId) -> Self {
        Self { answerer: answerer.clone(), key: secret.key_of(answerer.as_str().as_bytes()), next: 0 }
    }

    /// Who answers, and how the answer begins.
    pub(super) fn head(&mut self, head: &Head) -> Bytes {
        let text = serde_json::to_vec(head).expect("our own types serialise");
        let frame = self.frame(HEAD, &text);
        Bytes::from([self.answerer.as_str().as_bytes(), &frame].concat())
    }

    /// Data as frames, however much it is.
    pub(super) fn data(&mut self, data: &[u8]) -> Bytes {
        let mut frames = BytesMut::with_capacity(data.len() + (1 + data.len() / MAX_DATA) * 32);
        for piece in data.chunks(MAX_DATA) {
            frames.put(self.frame(DATA, piece));
        }
        frames.freeze()
    }

    /// Nothing comes after this.
    pub(super) fn end(&mut self) -> Bytes {
        self.frame(END, &[])
    }

    fn frame(&mut self, kind: u8, data: &[u8]) -> Bytes {
        let mut sealed = Vec::with_capacity(1 + data.len() + TAG_BYTES);
        sealed.push(kind);
        sealed.extend_from_slice(data);
        let nonce = numbered(self.next);
        self.next += 1;
        self.key
            .seal_in_place_append_tag(nonce, Aad::from([VERSION]), &mut sealed)
            .expect("frames are far below the limit of AES-GCM");
        let mut frame = BytesMut::with_capacity(LENGTH_BYTES + sealed.len());
        frame.put_u32(u32::try_from(sealed.len()).expect("frames are small"));
        frame.put_slice(&sealed);
        frame.freeze()
    }
}

/// A part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Head(Head),
    Data(Bytes),
    End,
}

/// Reads the frames of one answer, in whatever pieces they arrive.
pub(super) struct Opener {
    secret: AnswerSecret,
    /// Whom the request was for. `None` if it was for whoever is there.
    to: Option<ReplicaId>,
    /// Who answers, as soon as that has arrived.
    answerer: Option<Answerer>,
    next: u64,
    arrived: BytesMut,
}

struct Answerer {
    key: LessSafeKey,
    /// Whether the request was for this one.
    is_meant: bool,
}

/// Largest frame: a head may be larger than data.
const MAX_FRAME: usize = 1 + MAX_ENVELOPE + TAG_BYTES;

impl Opener {
    fn new(secret: AnswerSecret, to: Option<ReplicaId>) -> Self {
        Self { secret, to, answerer: None, next: 0, arrived: BytesMut::new() }
    }

    /// Takes what arrived. To be called when [`Self::part`] has nothing more to give, so that no more than a frame and
    /// what came with it is held.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// The next part, if it has arrived whole.
    pub(super) fn part(&mut self) -> Result<Option<Part>, Damaged> {
        let answerer = match self.answerer.take() {
            Some(answerer) => answerer,
            None if self.arrived.len() < ANSWERER_BYTES => return Ok(None),
            None => {
                let id = self.arrived.split_to(ANSWERER_BYTES);
                let is_meant = self.to.as_ref().is_none_or(|to| to.as_str().as_bytes() == &id[..]);
                Answerer { key: self.secret.key_of(&id), is_meant }
            }
        };
        let Answerer { key, is_meant } = self.answerer.insert(answerer);
        let Some((length, _)) = self.arrived.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Damaged)?;
        if !(1 + TAG_BYTES..=MAX_FRAME).contains(&length) {
            return Err(Damaged);
        }
        if self.arrived.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.arrived.advance(LENGTH_BYTES);
        let mut frame = self.arrived.split_to(length);
        let opened = key.open_in_place(numbered(self.next), Aad::from([VERSION]), &mut frame);
        let length = opened.map_err(|_| Damaged)?.len();
        frame.truncate(length);
        self.next += 1;
        let kind = frame.get_u8();
        match kind {
            HEAD if self.next == 1 => match serde_json::from_slice(&frame).map_err(|_| Damaged)? {
                // What somebody else did with the request is not its answer.
                Head::Answer { .. } if !*is_meant => Err(Damaged),
                head => Ok(Some(Part::Head(head))),
            },
            DATA if self.next > 1 => Ok(Some(Part::Data(frame.freeze()))),
            END if self.next > 1 => Ok(Some(Part::End)),
            _ => Err(Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: RequestNonce = [5; NONCE_BYTES];

    fn secret() -> DeploymentSecret {
        DeploymentSecret::new(&[7; 32])
    }

    fn id(digit: &str) -> ReplicaId {
        ReplicaId::parse(&digit.repeat(24)).unwrap()
    }

    /// What the replica opens that the request of [`envelope`] is for.
    fn open(secret: &DeploymentSecret, message: Bytes) -> Result<Opened, Damaged> {
        super::open(secret, &id("b"), message)
    }

    fn envelope() -> Envelope {
        Envelope {
            from: id("a"),
            to: Some(id("b")),
            at_ms: 7,
            what: What::Request {
                method: "POST".to_owned(),
                target: "/mcp?x=1".to_owned(),
                headers: vec![("accept".to_owned(), "ü\u{ff}".to_owned())],
                principal: "key:ci".to_owned(),
                pass: None,
                peer: Some(IpAddr::from([127, 0, 0, 1])),
            },
        }
    }

    #[test]
    fn a_request_opens_only_unchanged_and_with_the_deployments_secret() {
        let (sealed, _) = seal(&secret(), &NONCE, &envelope(), b"body hunter2").unwrap();
        let opened = open(&secret(), sealed.clone()).ok().unwrap();
        assert_eq!((opened.nonce, &opened.envelope, &opened.body[..]), (NONCE, &envelope(), &b"body hunter2"[..]));
        assert!(memchr::memmem::find(&sealed, b"hunter2").is_none(), "nobody on the way reads it");
        assert!(open(&DeploymentSecret::new(&[8; 32]), sealed.clone()).is_err());
        for at in 0..sealed.len() {
            let mut forged = sealed.to_vec();
            forged[at] ^= 1;
            assert!(open(&secret(), forged.into()).is_err(), "byte {at}");
            assert!(open(&secret(), sealed.slice(..at)).is_err(), "cut at {at}");
        }
        assert!(open(&secret(), Bytes::new()).is_err());
    }

    #[test]
    fn an_envelope_is_bounded() {
        let large = |bytes: usize| {
            let mut envelope = envelope();
            if let What::Request { headers, .. } = &mut envelope.what {
                headers.push(("mcp-param-x".to_owned(), "x".repeat(bytes)));
            }
            seal(&secret(), &NONCE, &envelope, b"").is_some()
        };
        assert!(large(MAX_ENVELOPE - 1_000) && !large(MAX_ENVELOPE));
    }

    #[test]
    fn an_answer_arrives_in_whatever_pieces_and_as_it_was_sent_or_not_at_all() {
        let (sealed, mut opener) = seal(&secret(), &NONCE, &envelope(), b"").unwrap();
        let mut sealer = open(&secret(), sealed.clone()).ok().unwrap().sealer;
        let head = Head::Answer { status: 200, headers: vec![("x".to_owned(), "y".to_owned())] };
        let large = vec![9; MAX_DATA * 2 + 1];
        let frames = [sealer.head(&head), sealer.data(b"one"), sealer.data(&large), sealer.end()].concat();
        let mut parts = Vec::new();
        for piece in frames.chunks(1_000) {
            opener.feed(piece);
            while let Some(part) = opener.part().unwrap() {
                parts.push(part);
            }
        }
        assert_eq!((&parts[0], &parts[1]), (&Part::Head(head), &Part::Data(Bytes::from_static(b"one"))));
        let sizes: Vec<usize> = parts[2..]
            .iter()
            .filter_map(|part| if let Part::Data(data) = part { Some(data.len()) } else { None })
            .collect();
        assert_eq!((sizes, parts.last()), (vec![MAX_DATA, MAX_DATA, 1], Some(&Part::End)));

        let read = |frames: &[u8]| {
            let (_, mut opener) = seal(&secret(), &NONCE, &envelope(), b"").unwrap();
            opener.feed(frames);
            let mut count = 0;
            while let Some(part) = opener.part()? {
                count += 1;
                assert!(count < 10, "{part:?}");
            }
            Ok::<usize, Damaged>(count)
        };
        let (mut again, first) = (open(&secret(), sealed).ok().unwrap().sealer, NONCE);
        let (head, one, two) = (again.head(&Head::NotHere), again.data(b"one"), again.data(b"two"));
        assert_eq!(read(&[head.clone(), one.clone(), two.clone()].concat()), Ok(3));
        assert_eq!(read(&[head.clone(), two.clone(), one.clone()].concat()), Err(Damaged), "in another order");
        let (answerer, frame) = head.split_at(ANSWERER_BYTES);
        assert_eq!(read(&[answerer, frame, frame].concat()), Err(Damaged), "twice");
        assert_eq!(read(&[answerer, &one].concat()), Err(Damaged), "without what came before");
        for at in [0, ANSWERER_BYTES - 1, ANSWERER_BYTES + LENGTH_BYTES, head.len() - 1] {
            let mut forged = head.to_vec();
            forged[at] ^= 1;
            assert_eq!(read(&forged), Err(Damaged), "byte {at}");
        }
        assert_eq!(read(&[0xff; ANSWERER_BYTES + 8]), Err(Damaged), "no frame is so large");
        assert_eq!(read(&head[..ANSWERER_BYTES - 1]), Ok(0));
        let mut other = Sealer::new(&AnswerSecret::new(&secret(), &[6; NONCE_BYTES]), &id("b"));
        assert_eq!(read(&other.head(&Head::NotHere)), Err(Damaged), "the answer to another request");
        assert_eq!(first, NONCE);
    }

    #[test]
    fn whoever_gets_a_request_has_a_key_of_its_own_and_only_whom_it_is_for_answers_it() {
        let (sealed, _) = seal(&secret(), &NONCE, &envelope(), b"").unwrap();
        let sealer = |digit: &str| super::open(&secret(), &id(digit), sealed.clone()).ok().unwrap().sealer;
        let answer = || Head::Answer { status: 200, headers: Vec::new() };
        let first = |mut sealer: Sealer, head: &Head| {
            let (_, mut opener) = seal(&secret(), &NONCE, &envelope(), b"").unwrap();
            opener.feed(&sealer.head(head));
            opener.part()
        };
        for head in [answer(), Head::NotHere] {
            let (here, elsewhere) = (sealer("b").head(&head), sealer("c").head(&head));
            let frame = ANSWERER_BYTES + LENGTH_BYTES;
            assert_eq!(here.len(), elsewhere.len());
            assert!(here[frame..].iter().zip(&elsewhere[frame..]).filter(|(one, two)| one == two).count() < 8);
            let claimed = [&here[..ANSWERER_BYTES], &elsewhere[ANSWERER_BYTES..]].concat();
            let (_, mut opener) = seal(&secret(), &NONCE, &envelope(), b"").unwrap();
            opener.feed(&claimed);
            assert_eq!(opener.part(), Err(Damaged), "in another one's name");
        }
        assert_eq!(first(sealer("b"), &answer()), Ok(Some(Part::Head(answer()))));
        assert_eq!(first(sealer("c"), &answer()), Err(Damaged));
        assert_eq!(first(sealer("c"), &Head::NotHere), Ok(Some(Part::Head(Head::NotHere))));
    }

    #[test]
    fn headers_travel_byte_for_byte() {
        let mut headers = HeaderMap::new();
        headers.append("accept", HeaderValue::from_static("a"));
        headers.append("accept", HeaderValue::from_bytes(&[b'b', 0xff, 0x80]).unwrap());
        assert_eq!(read_headers(&write_headers(headers.iter())).unwrap(), headers);
        for bad in [("a b", "c"), ("a", "c\n"), ("a", "c€")] {
            assert_eq!(read_headers(&[(bad.0.to_owned(), bad.1.to_owned())]), Err(Damaged), "{bad:?}");
        }
    }
}
