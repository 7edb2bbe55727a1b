//! An issuer of tokens: keys that sign, and a server that tells which of them to believe.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key of the issuer.
pub struct Signer {
    id: String,
    key: EcdsaKeyPair,
}

impl Signer {
    pub fn new(id: &str) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|e| anyhow!("{e:?}"))?;
        Ok(Self { id: id.into(), key })
    }

    /// A token that says this.
    pub fn token(&self, claims: &Value) -> anyhow::Result<String> {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": "ES256", "kid": self.id})), encode(claims));
        let made = self.key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|e| anyhow!("{e:?}"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(made)))
    }

    /// As it stands in a key set.
    fn public(&self) -> Value {
        // Uncompressed: a byte that says so, and the coordinates.
        let point = self.key.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y})
    }
}

/// Serves a key set on the loopback interface, for as long as the process lives.
pub struct Issuer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Nothing: it answers 500.
    keys: Option<String>,
    asked: u32,
}

impl Issuer {
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the issuer")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let issuer = Self { address, state: Arc::clone(&state) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &state, address);
            }
        });
        Ok(issuer)
    }

    /// The `iss` of its tokens, below which its document is.
    pub fn name(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn keys_at(&self) -> String {
        format!("{}/keys", self.name())
    }

    /// These and no others sign from now on.
    pub fn publish(&self, keys: &[&Signer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        self.lock().keys = Some(json!({ "keys": keys }).to_string());
    }

    pub fn fail(&self) {
        self.lock().keys = None;
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> u32 {
        self.lock().asked
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, address: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    let document = json!({"jwks_uri": format!("http://{address}/keys")}).to_string();
    let found = if head.starts_with(b"GET /keys ") {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked += 1;
        state.keys.clone()
    } else {
        head.starts_with(b"GET /.well-known/openid-configuration ").then_some(document)
    };
    let status = if found.is_some() { "200 OK" } else { "500 Internal Server Error" };
    let body = found.unwrap_or_default();
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}
