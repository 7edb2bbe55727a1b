use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use serde_json::{Value, json};

use super::token::Token;
use super::{Fault, JwtAuthn, Keys, Moment, Verdict};
use crate::connection::Connection;
use crate::request::{Method, Request};
use crate::route::MatchSubject;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token whose signature `sign` makes.
fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let made = sign(signed.as_bytes());
    format!("{signed}.{}", encode(made))
}

/// From the key's DER: a sequence of the modulus, after nine bytes of lengths and signs, and of the exponent.
fn modulus(pair: &RsaKeyPair) -> &[u8] {
    &pair.public_key().as_ref()[9..9 + 256]
}

const SECRET: &[u8] = b"of nobody but the tests of this file";

fn by_secret(claims: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    token(&json!({"alg": "HS256", "kid": "s"}), claims, |text| hmac::sign(&key, text).as_ref().to_vec())
}

fn secret_keys() -> Value {
    json!({"keys": [{"kty": "oct", "kid": "s", "alg": "HS256", "k": encode(SECRET)}]})
}

fn verified(keys: &Value, token: &str) -> Result<(), Fault> {
    Keys::parse(keys.to_string().as_bytes()).unwrap().verify(&Token::parse(token)?)
}

#[test]
fn every_algorithm_is_verified_by_its_own_keys_alone() {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_key = json!({"kty": "RSA", "kid": "rsa", "n": encode(modulus(&rsa)), "e": "AQAB"});
    let mut all = vec![(rsa_key, Vec::<(&str, String)>::new())];
    let paddings: [(&str, &dyn signature::RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    let claims = json!({"iss": "me"});
    for (name, padding) in paddings {
        let made = token(&json!({ "alg": name }), &claims, |text| {
            let mut made = vec![0; rsa.public_modulus_len()];
            rsa.sign(padding, &random, text, &mut made).unwrap();
            made
        });
        all[0].1.push((name, made));
    }
    for (name, curve, kind) in [
        ("ES256", "P-256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(kind).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let key = json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)});
        let made = token(&json!({ "alg": name }), &claims, |text| {
            pair.sign(&random, text).unwrap().as_ref().to_vec()
        });
        all.push((key, vec![(name, made)]));
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())});
    let made = token(&json!({"alg": "EdDSA"}), &claims, |text| pair.sign(text).as_ref().to_vec());
    all.push((key, vec![("EdDSA", made)]));
    all.push((secret_keys()["keys"][0].clone(), vec![("HS256", by_secret(&claims))]));

    for (i, (_, tokens)) in all.iter().enumerate() {
        for (name, made) in tokens {
            for (j, (key, _)) in all.iter().enumerate() {
                let result = verified(&json!({ "keys": [key] }), made);
                assert_eq!(result.is_ok(), i == j, "{name} by {key}: {result:?}");
            }
            // With the others beside it, too; and not when anything was changed.
            let keys: Vec<&Value> = all.iter().map(|(key, _)| key).collect();
            assert_eq!(verified(&json!({ "keys": keys }), made), Ok(()), "{name}");
            let (signed, signature) = made.rsplit_once('.').unwrap();
            let mut broken = URL_SAFE_NO_PAD.decode(signature).unwrap();
            broken[0] ^= 1;
            let broken = format!("{signed}.{}", encode(broken));
            assert_eq!(verified(&json!({ "keys": keys }), &broken), Err(Fault::Signature), "{name}");
        }
    }
}

#[test]
fn a_public_key_is_no_shared_secret_and_none_is_no_algorithm() {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let keys = json!({"keys": [{"kty": "RSA", "n": encode(modulus(&rsa)), "e": "AQAB"}]});
    let key = hmac::Key::new(hmac::HMAC_SHA256, modulus(&rsa));
    let forged = token(&json!({"alg": "HS256"}), &json!({}), |text| hmac::sign(&key, text).as_ref().to_vec());
    assert_eq!(verified(&keys, &forged), Err(Fault::Signature));
    for (signature, expected) in [(&b""[..], Fault::BadFormat), (b"x", Fault::UnknownAlgorithm)] {
        let unsigned = token(&json!({"alg": "none"}), &json!({}), |_| signature.to_vec());
        assert_eq!(verified(&keys, &unsigned), Err(expected));
    }
}

#[test]
fn key_sets_pass_over_what_they_cannot_use() {
    for (set, expected) in [
        ("x", Err("is no JSON")),
        ("{}", Err("has no field \"keys\"")),
        (r#"{"keys": 1}"#, Err("\"keys\" is no list")),
        (r#"{"keys": [{"kty": "XYZ"}, {"kty": "oct", "k": ""}]}"#, Err("has no key that can be used")),
        (r#"{"keys": [{"kty": "oct", "k": "YQ", "use": "enc"}]}"#, Err("has no key that can be used")),
        (r#"{"keys": [{"kty": "XYZ"}, {"kty": "oct", "k": "YQ"}]}"#, Ok(())),
    ] {
        assert_eq!(Keys::parse(set.as_bytes()).map(drop), expected, "{set}");
    }
}

#[test]
fn nobody_has_the_key_that_stands_for_none() {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, syntax::jwks::NOBODY.as_bytes());
    let set: Value = serde_json::from_str(syntax::jwks::NOBODYS).unwrap();
    assert_eq!(set["keys"][0]["x"], encode(digest.as_ref()));
    let text = token(&json!({"alg": "ES256"}), &json!({}), |_| vec![1; 64]);
    assert_eq!(verified(&set, &text), Err(Fault::Signature));
}

#[test]
fn the_debug_form_of_keys_is_silent() {
    let keys = Keys::parse(secret_keys().to_string().as_bytes()).unwrap();
    let text = format!("{keys:?}");
    assert!(text.contains("Secret") && !text.contains(&encode(SECRET)) && !text.contains("111"), "{text}");
}

/// The filter, with `provider` in place of what is usual, and `requires`.
fn filter(provider: Value, requires: &Value) -> JwtAuthn {
    let mut usual = json!({
        "issuer": "me", "localJwks": {"inlineString": secret_keys().to_string()}, "payloadInMetadata": "payload",
    });
    usual.as_object_mut().unwrap().extend(provider.as_object().unwrap().clone());
    let message = json!({
        "providers": {"p": usual, "other": {"issuer": "other", "localJwks": {"inlineString": secret_keys().to_string()}}},
        "rules": [{"match": {"prefix": "/open"}}, {"match": {"prefix": "/"}, "requires": requires}],
    });
    let name = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
    let bytes = proto::json::from_value(name, &message).unwrap();
    let message: pb::JwtAuthentication = crate::wire::decode(&bytes).unwrap();
    JwtAuthn::compile(&message).unwrap()
}

/// What becomes of a request, and what is left of it.
fn judged(filter: &JwtAuthn, mut request: Request, seconds: u64) -> (Option<Fault>, Request) {
    let connection = Connection::new("10.0.0.9:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let mut subject =
        MatchSubject { request: &request, connection: &connection, draw: 0, ignore_path_parameters: false };
    let (verdict, learned) = filter.judge(
        &mut subject,
        None,
        Moment { time: UNIX_EPOCH + Duration::from_secs(seconds), now: Instant::now(), failed: &[] },
    );
    learned.apply(&mut request);
    let fault = match verdict {
        Verdict::Pass => None,
        Verdict::Deny { fault, .. } => Some(fault),
        other => panic!("{other:?}"),
    };
    (fault, request)
}

fn get(path: &str) -> Request {
    Request::new(Method::Get, "a", path)
}

fn bearing(claims: &Value) -> Request {
    get("/").with_header("authorization", &format!("Bearer {}", by_secret(claims)))
}

#[test]
fn claims_are_judged() {
    let plain = filter(json!({"audiences": ["https://a/", "b"]}), &json!({"providerName": "p"}));
    let strict = filter(
        json!({"requireExpiration": true, "maxLifetime": "100s", "subjects": {"prefix": "spiffe://"}}),
        &json!({"providerName": "p"}),
    );
    let none = json!({});
    for (filter, claims, expected) in [
        (&plain, json!({"iss": "me", "aud": "b"}), None),
        (&plain, json!({"iss": "me", "aud": ["x", "http://a"]}), None),
        (&plain, json!({"iss": "me", "aud": "c"}), Some(Fault::AudienceNotAllowed)),
        (&plain, json!({"iss": "me"}), Some(Fault::AudienceNotAllowed)),
        (&plain, json!({"iss": "you", "aud": "b"}), Some(Fault::UnknownIssuer)),
        (&plain, json!({"iss": 1}), Some(Fault::Issuer)),
        (&plain, json!({"iss": "me", "aud": [1]}), Some(Fault::Audience)),
        (&plain, json!({"iss": "me", "aud": "b", "exp": 939}), Some(Fault::Expired)),
        (&plain, json!({"iss": "me", "aud": "b", "exp": 940}), None),
        (&plain, json!({"iss": "me", "aud": "b", "exp": "soon"}), Some(Fault::Expiration)),
        (&plain, json!({"iss": "me", "aud": "b", "nbf": 1060}), None),
        (&plain, json!({"iss": "me", "aud": "b", "nbf": 1061}), Some(Fault::NotYetValid)),
        (&strict, json!({"iss": "me", "sub": "spiffe://a"}), Some(Fault::NoExpiration)),
        (&strict, json!({"iss": "me", "sub": "a", "exp": 1000}), Some(Fault::SubjectNotAllowed)),
        (
            &strict,
            json!({"iss": "me", "sub": "spiffe://a", "iat": 950, "exp": 1051}),
            Some(Fault::LivesTooLong),
        ),
        (&strict, json!({"iss": "me", "sub": "spiffe://a", "iat": 950, "exp": 1050}), None),
        (&strict, none, Some(Fault::UnknownIssuer)),
    ] {
        assert_eq!(judged(filter, bearing(&claims), 1000).0, expected, "{claims}");
    }
}

/// Keys are asked for when a token needs them, count for their time, and an answer without keys is a failure.
#[test]
fn keys_are_fetched_when_a_token_needs_them() {
    let there = json!({"httpUri": {"uri": "https://keys.example/a?b", "cluster": "keys", "timeout": "1s"}, "cacheDuration": "60s"});
    let message = json!({
        "providers": {"p": {"issuer": "me", "remoteJwks": there}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissing": {}}]}}}],
    });
    let name = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
    let bytes = proto::json::from_value(name, &message).unwrap();
    let filter = JwtAuthn::compile(&crate::wire::decode(&bytes).unwrap()).unwrap();
    let connection = Connection::new("10.0.0.9:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let judge = |request: &Request, now: Instant, failed: &[usize]| {
        let mut subject =
            MatchSubject { request, connection: &connection, draw: 0, ignore_path_parameters: false };
        filter.judge(&mut subject, None, Moment { time: UNIX_EPOCH, now, failed }).0
    };
    let refused = Verdict::Deny { fault: Fault::NotFetched, strip: false };
    let (start, good) = (Instant::now(), bearing(&json!({"iss": "me"})));
    assert_eq!(judge(&get("/"), start, &[]), Verdict::Pass);
    // A token of another issuer needs none.
    assert!(matches!(judge(&bearing(&json!({"iss": "you"})), start, &[]), Verdict::Deny { .. }));
    assert_eq!(judge(&good, start, &[]), Verdict::Fetch(0));
    let call = filter.call(0).unwrap();
    assert_eq!(
        (&*call.cluster, &*call.request.authority, &*call.request.path),
        ("keys", "keys.example", "/a?b")
    );
    let answer = |status: u16, body: &str| {
        let response = crate::request::Response::new(status);
        let body = bytes::Bytes::from(body.to_owned());
        Ok(crate::ask::Answered { response, body, trailers: None, took: Duration::ZERO })
    };
    for wrong in
        [answer(404, &secret_keys().to_string()), answer(200, "{}"), Err(crate::ask::CallFault::Timeout)]
    {
        assert!(!filter.fetched(0, wrong, start));
        assert_eq!(judge(&good, start, &[0]), refused);
    }
    assert!(filter.fetched(0, answer(200, &secret_keys().to_string()), start));
    let old = start + Duration::from_secs(60);
    assert_eq!(judge(&good, old - Duration::from_millis(1), &[]), Verdict::Pass);
    assert_eq!(judge(&good, old, &[]), Verdict::Fetch(0));
    assert_eq!(judge(&good, old, &[0]), refused);
}

#[test]
fn requirements_are_met_as_they_are_combined() {
    let (good, foreign) = (json!({"iss": "me"}), json!({"iss": "nobody"}));
    let bad = || get("/").with_header("authorization", "Bearer a.b.c");
    let one = json!({"providerName": "p"});
    let or_none = json!({"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissing": {}}]}});
    let whatever =
        json!({"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissingOrFailed": {}}]}});
    let both = json!({"requiresAll": {"requirements": [{"providerName": "p"}, {"providerName": "other"}]}});
    let either = json!({"requiresAny": {"requirements": [{"providerName": "other"}, {"providerName": "p"}]}});
    for (requires, request, expected) in [
        (&one, get("/"), Some(Fault::Missing)),
        (&one, get("/open/door"), None),
        (&one, bearing(&good), None),
        (&one, bad(), Some(Fault::HeaderBase64)),
        // A good token does not vouch for the bad one beside it.
        (&one, bearing(&good).with_header("authorization", "Bearer x"), Some(Fault::SignatureBase64)),
        (&one, Request { path: "/?access_token=x".into(), ..bearing(&good) }, Some(Fault::BadFormat)),
        (&or_none, get("/"), None),
        (&or_none, bearing(&good), None),
        (&or_none, bearing(&foreign), Some(Fault::UnknownIssuer)),
        (&or_none, bad(), Some(Fault::HeaderBase64)),
        (&whatever, get("/"), None),
        (&whatever, bearing(&foreign), None),
        (&both, bearing(&good), Some(Fault::UnknownIssuer)),
        (&either, bearing(&good), None),
        (&either, get("/"), Some(Fault::Missing)),
    ] {
        let (fault, _) = judged(&filter(json!({}), requires), request, 1000);
        assert_eq!(fault, expected, "{requires}");
    }
}

#[test]
fn what_a_token_says_goes_on_and_the_token_itself_only_if_asked() {
    let claims = json!({"iss": "me", "sub": "jo", "scope": "read write", "realm": {"level": 3}, "list": [1]});
    let settings = json!({
        "forwardPayloadHeader": "x-payload",
        "claimToHeaders": [
            {"headerName": "x-sub", "claimName": "sub"}, {"headerName": "x-level", "claimName": "realm.level"},
            {"headerName": "x-list", "claimName": "list"},
        ],
        "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["scope"]},
        "headerInMetadata": "head",
    });
    let one = json!({"providerName": "p"});
    let (fault, request) = judged(
        &filter(settings, &one),
        bearing(&claims).with_header("x-sub", "admin").with_header("x-list", "all"),
        0,
    );
    assert_eq!(fault, None);
    let header = |name: &str| request.headers.get_str(name);
    assert_eq!(header("authorization"), None);
    assert_eq!(header("x-payload"), Some(encode(claims.to_string()).as_str()));
    // What a client says of itself does not stand beside it.
    assert_eq!((header("x-sub"), header("x-level"), header("x-list")), (Some("jo"), Some("3"), Some("WzFd")));
    let known = |path: &[&str]| request.metadata.get("envoy.filters.http.jwt_authn", path).cloned();
    assert_eq!(known(&["payload", "scope"]), Some(json!(["read", "write"])));
    assert_eq!(known(&["head", "alg"]), Some(json!("HS256")));

    let kept = filter(json!({"forward": true}), &one);
    assert!(judged(&kept, bearing(&claims), 0).1.headers.get_str("authorization").is_some());
    let elsewhere = filter(
        json!({"fromHeaders": [{"name": "x-token", "valuePrefix": "T "}], "fromParams": ["t"], "fromCookies": ["c"]}),
        &one,
    );
    let text = by_secret(&claims);
    let (fault, request) = judged(&elsewhere, get(&format!("/?a=1&t={text}&b=2")), 0);
    assert_eq!((fault, request.path.as_str()), (None, "/?a=1&b=2"));
    for request in [
        get("/").with_header("x-token", &format!("T {text}")),
        get("/").with_header("cookie", &format!("c={text}")),
    ] {
        assert_eq!(judged(&elsewhere, request, 0).0, None);
    }
    assert_eq!(judged(&elsewhere, bearing(&claims), 0).0, Some(Fault::Missing));
}

proptest! {
    #[test]
    fn no_token_makes_it_panic(text in "[A-Za-z0-9_.=-]{0,80}", parts in proptest::collection::vec(".{0,30}", 0..4)) {
        let keys = Keys::parse(secret_keys().to_string().as_bytes()).unwrap();
        let encoded: Vec<String> = parts.iter().map(encode).collect();
        for text in [text, encoded.join(".")] {
            if let Ok(token) = Token::parse(&text) {
                prop_assert!(keys.verify(&token).is_err());
                let _ = token.check_time(SystemTime::now(), Duration::ZERO);
            }
        }
    }
}
