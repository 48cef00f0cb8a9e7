//! Tokens as they are signed and read, and those of others.

use serde_json::{Value, json};

use super::*;
use crate::env::Env;
use crate::glob::Glob;

const ISSUER: &str = "https://gateway.example";
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

struct Party {
    secret: SigningSecret,
    id: String,
    verifier: Verifier,
}

fn party(algorithm: Algorithm) -> Party {
    let secret = SigningSecret::generate(algorithm).unwrap();
    let (id, public) = secret.public().unwrap();
    let verifier = Verifier::new(ISSUER, [(id.as_str(), &public)]).unwrap();
    Party { secret, id, verifier }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

fn token() -> AccessToken {
    AccessToken {
        id: TokenId::generate(&Env::system()),
        principal: Principal::parse("key:ci").unwrap(),
        client: ClientId::parse("client").unwrap(),
        grant: GrantId::generate(&Env::system()),
        resources: ResourceList::parse(vec!["https://gateway.example/mcp".to_owned()]).unwrap(),
        scopes: TokenList::parse(vec!["notes:read".to_owned(), "notes:write".to_owned()]).unwrap(),
        tools: ToolScope::default(),
        proof: None,
        actors: Vec::new(),
        claims: None,
        issued: at(0),
        expires: at(600),
        epoch: 3,
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "key:ci", "aud": "https://gateway.example/mcp", "exp": 1_800_000_600, "iat": 1_800_000_000,
        "nbf": 1_800_000_000, "jti": "0".repeat(24), "client_id": "client", "scope": "", "principal": "key",
        "grant": "0".repeat(24), "epoch": 3,
    })
}

/// What `party` signs, whatever it is.
fn signed(party: &Party, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = party.secret.encoding_key().unwrap();
    let signature = crypto::sign(message.as_bytes(), &key, party.secret.algorithm().into()).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn what_was_signed_is_read_again() {
    for algorithm in ALGORITHMS {
        let Party { secret, id, verifier } = party(algorithm);
        let stored = SigningSecret::new(algorithm, secret.pkcs8().clone());
        let signer = Signer::new(&id, &stored).unwrap();
        let two = ["https://gateway.example/mcp/notes", "https://gateway.example/mcp/files"].map(str::to_owned);
        for said in [
            token(),
            AccessToken { resources: ResourceList::parse(two.to_vec()).unwrap(), ..token() },
            AccessToken { scopes: TokenList::default(), ..token() },
        ] {
            let sent = signer.sign(ISSUER, &said).unwrap();
            assert_eq!(verifier.verify(&sent, at(0), 3), Ok(said.clone()), "{algorithm:?}");
            assert_eq!(verifier.verify(&sent, at(599), 3), Ok(said.clone()));
            assert_eq!(verifier.verify(&sent, at(600), 3), Err(Invalid::Expired));
            assert_eq!(verifier.verify(&sent, Timestamp::from_millis(at(0).as_millis() - 5_000), 3), Ok(said));
            let early = Timestamp::from_millis(at(0).as_millis() - 5_001);
            assert_eq!(verifier.verify(&sent, early, 3), Err(Invalid::NotYet));
            assert_eq!(verifier.verify(&sent, at(0), 4), Err(Invalid::Restored));
        }
    }
}

#[test]
fn a_token_says_to_the_millisecond_when_it_was_issued() {
    let party = party(Algorithm::Es256);
    let issued = Timestamp::from_millis(at(0).as_millis() + 321);
    let said = AccessToken { issued, ..token() };
    let sent = Signer::new(&party.id, &party.secret).unwrap().sign(ISSUER, &said).unwrap();
    assert_eq!(party.verifier.verify(&sent, at(1), 3), Ok(said));
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": party.id });
    for (iat_ms, expected) in [
        (json!(1_800_000_000_999_u64), Ok(1_800_000_000_999)),
        (json!(1_800_000_001_000_u64), Err(Invalid::Claims)),
        (json!(1_799_999_999_999_u64), Err(Invalid::Claims)),
        (json!("1800000000000"), Err(Invalid::Claims)),
        (Value::Null, Ok(1_800_000_000_000)),
    ] {
        let mut claims = claims();
        if !iat_ms.is_null() {
            claims["iat_ms"] = iat_ms.clone();
        }
        let read = party.verifier.verify(&signed(&party, &header, &claims), at(1), 3);
        assert_eq!(read.map(|token| token.issued.as_millis()), expected, "{iat_ms}");
    }
}

#[test]
fn a_published_key_is_public_and_read_again() {
    for algorithm in ALGORITHMS {
        let (id, public) = party(algorithm).secret.public().unwrap();
        let json: Value = serde_json::from_str(&public.to_json()).unwrap();
        assert_eq!((&json["kid"], &json["use"], &json["alg"]), (&json!(id), &json!("sig"), &json!(algorithm.as_str())));
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(json.get(private).is_none(), "{algorithm:?} {private}");
        }
        assert_eq!(PublicKey::parse(algorithm, &public.to_json()).unwrap().to_json(), public.to_json());
        for other in ALGORITHMS.into_iter().filter(|other| *other != algorithm) {
            assert_eq!(PublicKey::parse(other, &public.to_json()).err(), Some(KeyError));
        }
    }
}

#[test]
fn a_token_that_was_changed_anywhere_is_refused() {
    for algorithm in ALGORITHMS {
        let party = party(algorithm);
        let sent = Signer::new(&party.id, &party.secret).unwrap().sign(ISSUER, &token()).unwrap();
        for position in 0..sent.len() {
            let mut changed = sent.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(party.verifier.verify(&changed, at(0), 3).is_err(), "{algorithm:?} {position}");
        }
        for cut in 0..sent.len() {
            assert!(party.verifier.verify(&sent[..cut], at(0), 3).is_err(), "{algorithm:?} cut at {cut}");
        }
        assert!(party.verifier.verify(&format!("{sent}A"), at(0), 3).is_err());
        assert!(party.verifier.verify(&format!("{sent}."), at(0), 3).is_err());
        assert!(party.verifier.verify(&format!("{sent}="), at(0), 3).is_err());
    }
}

#[test]
fn a_header_that_is_not_ours_is_refused_whoever_signed() {
    let one = party(Algorithm::Rs256);
    let kid = one.id.as_str();
    let ours = json!({ "alg": "RS256", "typ": "at+jwt", "kid": kid });
    let with = |name: &str, value: Value| {
        let mut header = ours.clone();
        header[name] = value;
        header
    };
    assert!(one.verifier.verify(&signed(&one, &ours, &claims()), at(0), 3).is_ok());
    for (header, expected) in [
        (with("alg", json!("none")), Invalid::Algorithm),
        (with("alg", json!("HS256")), Invalid::Algorithm),
        (with("alg", json!("RS512")), Invalid::Algorithm),
        (with("alg", json!("rs256")), Invalid::Algorithm),
        (with("alg", json!(null)), Invalid::Header),
        (with("typ", json!("JWT")), Invalid::Type),
        (with("typ", json!("dpop+jwt")), Invalid::Type),
        (with("typ", json!("oauth-id-jag+jwt")), Invalid::Type),
        (with("kid", json!("../../etc/passwd")), Invalid::UnknownKey),
        (with("kid", json!("https://evil.example/key")), Invalid::UnknownKey),
        (with("kid", json!("' OR 1=1 --")), Invalid::UnknownKey),
        (with("kid", json!(1)), Invalid::Header),
        (with("crit", json!(["exp"])), Invalid::Header),
        (with("b64", json!(false)), Invalid::Header),
        (with("jku", json!("https://evil.example/jwks")), Invalid::Header),
        (with("jwk", json!({ "kty": "RSA" })), Invalid::Header),
        (with("x5u", json!("https://evil.example/cert")), Invalid::Header),
        (with("x5c", json!([])), Invalid::Header),
        (with("zip", json!("DEF")), Invalid::Header),
        (with("cty", json!("JWT")), Invalid::Header),
        (json!({ "alg": "RS256", "typ": "at+jwt" }), Invalid::Header),
        (json!({ "alg": "RS256", "kid": kid }), Invalid::Header),
        (json!([]), Invalid::Header),
    ] {
        let sent = signed(&one, &header, &claims());
        assert_eq!(one.verifier.verify(&sent, at(0), 3), Err(expected), "{header}");
    }
    // The same name twice.
    let twice = format!(r#"{{"alg":"RS256","alg":"none","typ":"at+jwt","kid":"{kid}"}}"#);
    let sent = format!("{}.{}.", URL_SAFE_NO_PAD.encode(twice), URL_SAFE_NO_PAD.encode(claims().to_string()));
    assert_eq!(one.verifier.verify(&sent, at(0), 3), Err(Invalid::Header));
}

#[test]
fn a_key_signs_for_its_own_algorithm_only() {
    let (one, other) = (party(Algorithm::Rs256), party(Algorithm::EdDsa));
    // Signed by a key that is not ours under the id of one that is.
    let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": one.id });
    assert_eq!(one.verifier.verify(&signed(&other, &header, &claims()), at(0), 3), Err(Invalid::Algorithm));
    let header = json!({ "alg": "RS256", "typ": "at+jwt", "kid": one.id });
    assert_eq!(one.verifier.verify(&signed(&other, &header, &claims()), at(0), 3), Err(Invalid::Signature));
    let stranger = party(Algorithm::Rs256);
    assert_eq!(one.verifier.verify(&signed(&stranger, &header, &claims()), at(0), 3), Err(Invalid::Signature));
    // With the public key as the secret of a MAC.
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "typ": "at+jwt", "kid": one.id }).to_string()),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let public = one.secret.public().unwrap().1.to_json();
    let mac = EncodingKey::from_secret(public.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &mac, jsonwebtoken::Algorithm::HS256).unwrap();
    assert_eq!(one.verifier.verify(&format!("{message}.{signature}"), at(0), 3), Err(Invalid::Algorithm));
}

#[test]
fn claims_that_are_missing_or_none_are_refused() {
    let one = party(Algorithm::Es256);
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": one.id });
    let verified = |claims: &Value| one.verifier.verify(&signed(&one, &header, claims), at(0), 3).map(drop);
    assert_eq!(verified(&claims()), Ok(()));
    for name in claims().as_object().unwrap().keys() {
        let mut without = claims();
        without.as_object_mut().unwrap().remove(name);
        assert_eq!(verified(&without), Err(Invalid::Claims), "{name}");
    }
    for (name, value, expected) in [
        ("iss", json!("https://gateway.example/"), Invalid::Issuer),
        ("iss", json!("https://evil.example"), Invalid::Issuer),
        ("exp", json!(1_800_000_000), Invalid::Expired),
        ("exp", json!(-1), Invalid::Claims),
        ("exp", json!("1800000600"), Invalid::Claims),
        ("exp", json!(u64::MAX), Invalid::Claims),
        ("nbf", json!(1_800_000_006), Invalid::NotYet),
        ("iat", json!(1_800_000_006), Invalid::NotYet),
        ("aud", json!([]), Invalid::Claims),
        ("aud", json!(""), Invalid::Claims),
        ("aud", json!([1]), Invalid::Claims),
        ("sub", json!("root"), Invalid::Claims),
        ("sub", json!("user:ci"), Invalid::Claims),
        ("principal", json!("user"), Invalid::Claims),
        ("scope", json!("a\"b"), Invalid::Claims),
        ("epoch", json!(2), Invalid::Restored),
        ("jti", json!(""), Invalid::Claims),
        ("grant", json!("x"), Invalid::Claims),
    ] {
        let mut changed = claims();
        changed[name] = value;
        assert_eq!(verified(&changed), Err(expected), "{changed}");
    }
    let large = json!("x".repeat(MAX_BYTES));
    let mut changed = claims();
    changed["more"] = large;
    assert_eq!(verified(&changed), Err(Invalid::TooLarge));
}

#[test]
fn tools_and_what_policies_say_are_read_again() {
    let one = party(Algorithm::EdDsa);
    let signer = Signer::new(&one.id, &one.secret).unwrap();
    let globs = |patterns: &[&str]| patterns.iter().map(|pattern| Glob::parse(pattern).unwrap()).collect::<Vec<_>>();
    for tools in [
        ToolScope::default(),
        ToolScope(vec![Vec::new()]),
        ToolScope(vec![globs(&["notes/*"]), globs(&["*/add", "*/list ü"])]),
    ] {
        for claims in [
            None,
            Some(r#"{"cost":1.50,"list":[1, {"deep":null}],"many":123456789012345678901234567890,"ü":"\u00fc"}"#),
        ] {
            let said = AccessToken { tools: tools.clone(), claims: claims.map(Arc::from), ..token() };
            let sent = signer.sign(ISSUER, &said).unwrap();
            assert_eq!(one.verifier.verify(&sent, at(0), 3), Ok(said));
        }
    }
    let said = AccessToken { claims: Some("{}".into()), ..token() };
    assert_eq!(one.verifier.verify(&signer.sign(ISSUER, &said).unwrap(), at(0), 3).unwrap().claims, None);
}

#[test]
fn t18_a_token_says_which_key_it_is_bound_to() {
    let one = party(Algorithm::Es256);
    let said = AccessToken { proof: Some(crate::secret::Digest::of(b"key")), ..token() };
    let sent = Signer::new(&one.id, &one.secret).unwrap().sign(ISSUER, &said).unwrap();
    assert_eq!(one.verifier.verify(&sent, at(0), 3), Ok(said.clone()));
    let payload = URL_SAFE_NO_PAD.decode(sent.split('.').nth(1).unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    let jkt = URL_SAFE_NO_PAD.encode(said.proof.unwrap().as_bytes());
    assert_eq!(payload["cnf"], json!({ "jkt": jkt }));
    // What nobody could look at is not passed over.
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": one.id });
    for cnf in
        [json!({}), json!({ "jkt": "x" }), json!({ "x5t#S256": jkt }), json!({ "jkt": jkt, "kid": "x" }), json!("x")]
    {
        let mut claims = claims();
        claims["cnf"] = cnf.clone();
        let read = one.verifier.verify(&signed(&one, &header, &claims), at(0), 3);
        assert_eq!(read, Err(Invalid::Claims), "{cnf}");
    }
}

#[test]
fn t17_a_token_says_who_has_acted_for_whom() {
    let one = party(Algorithm::Es256);
    let id = |name: &str| ClientId::parse(name).unwrap();
    let signer = Signer::new(&one.id, &one.secret).unwrap();
    let said = AccessToken { actors: vec![id("newest"), id("first")], ..token() };
    let sent = signer.sign(ISSUER, &said).unwrap();
    assert_eq!(one.verifier.verify(&sent, at(0), 3), Ok(said));
    let payload = URL_SAFE_NO_PAD.decode(sent.split('.').nth(1).unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["act"], json!({ "sub": "newest", "act": { "sub": "first" } }));
    let said = AccessToken { actors: vec![id("x"); MAX_ACTORS + 1], ..token() };
    let sent = signer.sign(ISSUER, &said).unwrap();
    assert_eq!(one.verifier.verify(&sent, at(0), 3), Err(Invalid::Claims));
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": one.id });
    for act in [json!({}), json!({ "sub": "" }), json!({ "sub": "x", "iss": "y" }), json!("x")] {
        let mut claims = claims();
        claims["act"] = act.clone();
        let read = one.verifier.verify(&signed(&one, &header, &claims), at(0), 3);
        assert_eq!(read, Err(Invalid::Claims), "{act}");
    }
}

#[test]
fn what_policies_say_stands_at_the_top_and_never_in_the_place_of_ours() {
    let one = party(Algorithm::Es256);
    let signer = Signer::new(&one.id, &one.secret).unwrap();
    let wanted = json!({
        "iss": "https://evil.example", "sub": "user:root", "aud": "https://evil.example", "exp": 1, "iat": 1, "nbf": 1,
        "jti": "x", "client_id": "x", "scope": "admin", "principal": "user", "grant": "x", "epoch": 9, "tools": [],
        "cnf": { "jkt": "x" }, "act": { "sub": "x" }, "project": "apollo", "Sub": "theirs",
    });
    let plain = token();
    let said = AccessToken { claims: Some(wanted.to_string().into()), ..plain.clone() };
    let sent = signer.sign(ISSUER, &said).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(sent.split('.').nth(1).unwrap()).unwrap();
    let mut payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((&payload["iss"], &payload["project"]), (&json!(ISSUER), &json!("apollo")));
    let read = one.verifier.verify(&sent, at(0), 3).unwrap();
    let left = Some(Arc::from(r#"{"Sub":"theirs","project":"apollo"}"#));
    assert_eq!(read, AccessToken { claims: left, ..plain.clone() });

    let names = payload.as_object_mut().unwrap();
    names.retain(|name, _| name != "project" && name != "Sub");
    let without = signer.sign(ISSUER, &plain).unwrap();
    let expected = URL_SAFE_NO_PAD.decode(without.split('.').nth(1).unwrap()).unwrap();
    assert_eq!(payload, serde_json::from_slice::<Value>(&expected).unwrap());
}

#[test]
fn what_does_not_fit_into_a_token_is_not_signed() {
    let one = party(Algorithm::Rs256);
    let signer = Signer::new(&one.id, &one.secret).unwrap();
    let with =
        |bytes: usize| AccessToken { claims: Some(json!({ "x": "y".repeat(bytes) }).to_string().into()), ..token() };
    let largest = (0..MAX_BYTES).step_by(64).rev().find_map(|bytes| signer.sign(ISSUER, &with(bytes)).ok());
    let largest = largest.unwrap();
    assert!(MAX_BYTES - largest.len() < 200, "{}", largest.len());
    assert!(one.verifier.verify(&largest, at(0), 3).is_ok());
    assert_eq!(signer.sign(ISSUER, &with(MAX_BYTES)), Err(Unsigned::TooLarge));
    let lists = vec![vec![Glob::parse(&"a".repeat(256)).unwrap(); 40]];
    assert_eq!(signer.sign(ISSUER, &AccessToken { tools: ToolScope(lists), ..token() }), Err(Unsigned::TooLarge));
    for none in ["", "[]", "null", r#"{"a":1"#, r#"{"a":1,"a":2}"#, r#"{"a":1}{}"#] {
        assert_eq!(
            signer.sign(ISSUER, &AccessToken { claims: Some(none.into()), ..token() }),
            Err(Unsigned::Claims),
            "{none}"
        );
    }
}

#[test]
fn tools_that_cannot_be_read_and_names_that_are_there_twice_are_refused() {
    let one = party(Algorithm::EdDsa);
    let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": one.id });
    for tools in
        [json!(null), json!("notes/*"), json!(["notes/*"]), json!([[""]]), json!([[1]]), json!([["x".repeat(257)]])]
    {
        let mut changed = claims();
        changed["tools"] = tools;
        assert_eq!(one.verifier.verify(&signed(&one, &header, &changed), at(0), 3), Err(Invalid::Claims), "{changed}");
    }
    for (name, value) in [("sub", json!("key:other")), ("project", json!(1))] {
        let mut with = claims();
        with["project"] = json!(1);
        let twice = format!("{},\"{name}\":{value}}}", with.to_string().trim_end_matches('}'));
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(&header.to_string()), part(&twice));
        let key = one.secret.encoding_key().unwrap();
        let signature = crypto::sign(message.as_bytes(), &key, one.secret.algorithm().into()).unwrap();
        let sent = format!("{message}.{signature}");
        assert_eq!(one.verifier.verify(&sent, at(0), 3), Err(Invalid::Claims), "{name}");
    }
}
