//! Handshakes over in-memory pipes: who is let in, who is not, and what a swap changes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::ManualClock;
use rustls::CipherSuite;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::fixtures::{dns, root, uri};

const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
const RATINGS: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-ratings";

fn bundle(root: &fixtures::Root) -> BundleSource {
    BundleSource::new(TrustBundle::any(vec![root.certificate.clone()]).unwrap())
}

fn mesh_server(identity: IdentitySource, bundle: BundleSource) -> ServerOptions {
    let mut options = ServerOptions::new(identity);
    options.client_certificates = ClientCertificates::Required(Verify::spiffe(bundle, []));
    options.alpn = vec![b"istio-peer-exchange".to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()];
    options
}

fn mesh_client(identity: IdentitySource, bundle: BundleSource, pinned: &str) -> ClientOptions {
    let mut options = ClientOptions::new(Verify::spiffe(bundle, [pinned.to_owned()]));
    options.identity = Some(identity);
    options.sni = Some("outbound_.9080_._.reviews.default.svc.cluster.local".into());
    options
}

struct Met {
    client_saw: PeerInfo,
    server_saw: Option<PeerInfo>,
    alpn: Option<Vec<u8>>,
    suite: Option<CipherSuite>,
}

/// One handshake and one byte each way, since TLS 1.3 tells a client late that it was refused.
async fn meet(server: &ServerTls, client: &ClientTls) -> Result<Met, String> {
    let (near, far) = duplex(64 * 1024);
    let serve = async {
        let mut stream = server.accept(far).await.map_err(|e| format!("server: {e}"))?;
        let peer = PeerInfo::of_connection(stream.get_ref().1);
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let suite = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
        stream.write_u8(7).await.map_err(|e| format!("server: {e}"))?;
        stream.flush().await.map_err(|e| format!("server: {e}"))?;
        Ok::<_, String>((peer, alpn, suite))
    };
    let dial = async {
        let mut stream = client.connect(near).await.map_err(|e| format!("client: {e}"))?;
        let peer = PeerInfo::of_connection(stream.get_ref().1).ok_or("client: no certificate")?;
        stream.read_u8().await.map_err(|e| format!("client: {e}"))?;
        Ok::<_, String>(peer)
    };
    let (served, dialled) = tokio::join!(serve, dial);
    match (served, dialled) {
        (Ok((server_saw, alpn, suite)), Ok(client_saw)) => Ok(Met { client_saw, server_saw, alpn, suite }),
        (Err(s), Err(c)) => Err(format!("{s}; {c}")),
        (Err(e), _) | (_, Err(e)) => Err(e),
    }
}

#[tokio::test]
async fn mesh_peers_learn_each_others_identity() {
    install_provider();
    let ca = root("mesh");
    let server = ServerTls::new(mesh_server(IdentitySource::new(ca.svid(REVIEWS)), bundle(&ca))).unwrap();
    for versions in [TlsVersions::Only12, TlsVersions::Only13, TlsVersions::From12To13] {
        let mut options = mesh_client(IdentitySource::new(ca.svid(RATINGS)), bundle(&ca), REVIEWS);
        options.versions = versions;
        let met = meet(&server, &ClientTls::new(options).unwrap()).await.unwrap();
        assert_eq!(met.client_saw.spiffe_id.unwrap().to_string(), REVIEWS);
        assert_eq!(met.server_saw.unwrap().spiffe_id.unwrap().to_string(), RATINGS);
        if versions != TlsVersions::Only12 {
            assert_eq!(met.suite, Some(CipherSuite::TLS13_AES_128_GCM_SHA256), "what two Envoys speak, too");
        }
    }
}

#[tokio::test]
async fn both_ends_must_have_a_curve_in_common() {
    install_provider();
    let ca = root("mesh");
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    for (of_server, of_client, agree) in [
        (&["P-384"][..], &[][..], true),
        (&["P-256", "X25519"], &["X25519"], true),
        (&["P-384"], &["P-256", "X25519"], false),
    ] {
        let mut server = mesh_server(IdentitySource::new(ca.svid(REVIEWS)), bundle(&ca));
        server.curves = curves(&names(of_server)).unwrap();
        let mut client = mesh_client(IdentitySource::new(ca.svid(RATINGS)), bundle(&ca), REVIEWS);
        client.curves = curves(&names(of_client)).unwrap();
        let met = meet(&ServerTls::new(server).unwrap(), &ClientTls::new(client).unwrap()).await;
        assert_eq!(met.is_ok(), agree, "{of_server:?} {of_client:?}: {:?}", met.err());
    }
    assert_eq!(curves(&names(&["P-521", "P-256"])).unwrap().len(), 1);
    assert!(curves(&names(&["P-521"])).is_err());
}

#[tokio::test]
async fn alpn_is_selected_from_ours_and_strangers_names_are_passed_over() {
    install_provider();
    let ca = root("mesh");
    let server = ServerTls::new(mesh_server(IdentitySource::new(ca.svid(REVIEWS)), bundle(&ca))).unwrap();
    let offers: [(&[&str], Option<&str>); 4] = [
        (&["istio-http/1.1", "istio", "http/1.1"], Some("http/1.1")),
        (&["istio-peer-exchange", "istio"], Some("istio-peer-exchange")),
        (&["istio-h2", "istio"], None),
        (&[], None),
    ];
    for (offer, selected) in offers {
        let mut options = mesh_client(IdentitySource::new(ca.svid(RATINGS)), bundle(&ca), REVIEWS);
        options.alpn = offer.iter().map(|p| p.as_bytes().to_vec()).collect();
        let met = meet(&server, &ClientTls::new(options).unwrap()).await.unwrap();
        assert_eq!(met.alpn.as_deref(), selected.map(str::as_bytes), "{offer:?}");
    }
}

#[tokio::test]
async fn a_valid_certificate_of_another_account_is_refused_by_the_caller() {
    install_provider();
    let ca = root("mesh");
    let server = ServerTls::new(mesh_server(IdentitySource::new(ca.svid(RATINGS)), bundle(&ca))).unwrap();
    let client =
        ClientTls::new(mesh_client(IdentitySource::new(ca.svid(RATINGS)), bundle(&ca), REVIEWS)).unwrap();
    let error = meet(&server, &client).await.err().unwrap();
    assert!(error.contains("bookinfo-ratings") && error.contains("none of"), "{error}");
}

#[tokio::test]
async fn whoever_is_not_exactly_one_svid_of_a_known_domain_is_kept_out() {
    install_provider();
    let (ca, stranger) = (root("mesh"), root("stranger"));
    let only_cluster_local = BundleSource::new(
        TrustBundle::of_domain(base::TrustDomain::default(), vec![ca.certificate.clone()]).unwrap(),
    );
    let server =
        ServerTls::new(mesh_server(IdentitySource::new(ca.svid(REVIEWS)), only_cluster_local)).unwrap();
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let guests = [
        ("no URI", ca.leaf(vec![dns("reviews.default")])),
        ("two URIs", ca.leaf(vec![uri(RATINGS), uri(REVIEWS)])),
        ("not SPIFFE", ca.leaf(vec![uri("https://cluster.local/ns/default/sa/x")])),
        ("foreign domain", ca.svid("spiffe://evil.local/ns/default/sa/x")),
        ("foreign root", stranger.svid(RATINGS)),
        ("expired", ca.leaf_between(vec![uri(RATINGS)], now - 2 * hour, now - hour)),
        ("not yet", ca.leaf_between(vec![uri(RATINGS)], now + hour, now + 2 * hour)),
    ];
    for (what, guest) in guests {
        let client = mesh_client(IdentitySource::new(guest), bundle(&ca), REVIEWS);
        let met = meet(&server, &ClientTls::new(client).unwrap()).await;
        assert!(met.is_err_and(|e| e.contains("server: ")), "{what}");
    }
    let mut nobody = ClientOptions::new(Verify::spiffe(bundle(&ca), [REVIEWS.to_owned()]));
    nobody.identity = None;
    assert!(meet(&server, &ClientTls::new(nobody).unwrap()).await.is_err());
}

#[tokio::test]
async fn a_swap_of_certificate_and_roots_counts_from_the_next_handshake() {
    install_provider();
    let (old, new) = (root("old"), root("new"));
    let (identity, trusted) = (IdentitySource::empty(), bundle(&old));
    let server = ServerTls::new(mesh_server(identity.clone(), trusted.clone())).unwrap();
    let mine = IdentitySource::new(old.svid(RATINGS));
    let client = ClientTls::new(mesh_client(mine.clone(), trusted.clone(), REVIEWS)).unwrap();
    assert!(!server.is_ready() && meet(&server, &client).await.is_err(), "nothing to show yet");

    identity.set(old.svid(REVIEWS));
    meet(&server, &client).await.unwrap();

    identity.set(new.svid(REVIEWS));
    assert!(meet(&server, &client).await.is_err(), "the new root is not trusted yet");
    trusted.set(TrustBundle::any(vec![old.certificate.clone(), new.certificate.clone()]).unwrap());
    let met = meet(&server, &client).await.unwrap();
    assert_eq!(met.client_saw.chain()[0], identity.current().unwrap().chain()[0]);

    mine.set(new.svid(RATINGS));
    trusted.set(TrustBundle::any(vec![new.certificate.clone()]).unwrap());
    meet(&server, &client).await.unwrap();
}

#[tokio::test]
async fn without_roots_nothing_is_trusted() {
    install_provider();
    let ca = root("mesh");
    let server = ServerTls::new(ServerOptions::new(IdentitySource::new(ca.svid(REVIEWS)))).unwrap();
    for nothing in [BundleSource::empty(), BundleSource::new(TrustBundle::default())] {
        let client = ClientTls::new(ClientOptions::new(Verify::spiffe(nothing.clone(), []))).unwrap();
        assert!(!client.is_ready());
        let error = meet(&server, &client).await.err().unwrap();
        assert!(error.contains("have not been received"), "{error}");
    }
}

#[tokio::test]
async fn time_passes_by_the_clock_that_was_given() {
    install_provider();
    let ca = root("mesh");
    let clock = Arc::new(ManualClock::starting_at(SystemTime::now()));
    let minute = Duration::from_secs(60);
    let identity = IdentitySource::new(ca.leaf_between(
        vec![uri(REVIEWS)],
        SystemTime::now() - minute,
        SystemTime::now() + minute,
    ));
    let server = ServerTls::new(ServerOptions::new(identity)).unwrap();
    let mut options = ClientOptions::new(Verify::spiffe(bundle(&ca), []));
    options.clock = clock.clone();
    let client = ClientTls::new(options).unwrap();
    meet(&server, &client).await.unwrap();
    clock.advance(2 * minute);
    let error = meet(&server, &client).await.err().unwrap();
    assert!(error.to_lowercase().contains("expired"), "{error}");
}

#[tokio::test]
async fn the_outside_is_judged_by_name() {
    install_provider();
    let ca = root("web");
    let server =
        ServerTls::new(ServerOptions::new(IdentitySource::new(ca.leaf(vec![dns("*.example.com")])))).unwrap();
    let cases = [
        ("a.example.com", true),
        ("a.b.example.com", false),
        ("example.com", false),
        ("a.example.org", false),
    ];
    for (name, accepted) in cases {
        let by_name = ClientOptions::new(Verify::as_asked(bundle(&ca)));
        let client = ClientTls::new(ClientOptions { sni: Some(name.into()), ..by_name }).unwrap();
        assert_eq!(meet(&server, &client).await.is_ok(), accepted, "{name}");
        let expect = Expect::Chain { sans: vec![SanMatcher::dns(name)] };
        let by_matcher = Verify::Against { bundle: bundle(&ca), expect, pins: Pins::default() };
        let client = ClientTls::new(ClientOptions::new(by_matcher)).unwrap();
        assert_eq!(meet(&server, &client).await.is_ok(), accepted, "matcher for {name}");
    }
    meet(&server, &ClientTls::new(ClientOptions::new(Verify::Nothing)).unwrap()).await.unwrap();
    let nameless = ClientTls::new(ClientOptions::new(Verify::as_asked(bundle(&ca)))).unwrap();
    assert!(meet(&server, &nameless).await.is_err(), "without a name nobody can be judged by it");
}

#[tokio::test]
async fn a_pinned_certificate_is_the_only_one() {
    install_provider();
    let ca = root("web");
    let identity = ca.leaf(vec![dns("a.example.com")]);
    let pin = certificate::sha256(&identity.chain()[0]);
    let server = ServerTls::new(ServerOptions::new(IdentitySource::new(identity))).unwrap();
    for (pin, accepted) in [(pin, true), ([0; 32], false)] {
        let pins = Pins { certificates: vec![pin], public_keys: vec![] };
        let verify = Verify::Against { bundle: bundle(&ca), expect: Expect::Chain { sans: vec![] }, pins };
        let client = ClientTls::new(ClientOptions::new(verify)).unwrap();
        assert_eq!(meet(&server, &client).await.is_ok(), accepted);
    }
}

#[tokio::test]
async fn an_optional_client_certificate_must_still_verify() {
    install_provider();
    let (ca, stranger) = (root("mesh"), root("stranger"));
    let mut options = ServerOptions::new(IdentitySource::new(ca.svid(REVIEWS)));
    options.client_certificates = ClientCertificates::Optional(Verify::spiffe(bundle(&ca), []));
    let server = ServerTls::new(options).unwrap();
    let dial = |identity: Option<Identity>| {
        let mut options = ClientOptions::new(Verify::spiffe(bundle(&ca), []));
        options.identity = identity.map(IdentitySource::new);
        ClientTls::new(options).unwrap()
    };
    assert!(meet(&server, &dial(None)).await.unwrap().server_saw.is_none());
    assert!(meet(&server, &dial(Some(ca.svid(RATINGS)))).await.unwrap().server_saw.is_some());
    assert!(meet(&server, &dial(Some(stranger.svid(RATINGS)))).await.is_err());
}

#[tokio::test]
async fn rsa_p384_and_p256_leaves_serve() {
    install_provider();
    let ca = root("mesh");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let keys = [
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
    ];
    for key in keys {
        let identity = ca.leaf_with(vec![uri(REVIEWS)], now - hour, now + hour, &key);
        let server = ServerTls::new(mesh_server(IdentitySource::new(identity), bundle(&ca))).unwrap();
        let client = mesh_client(IdentitySource::new(ca.svid(RATINGS)), bundle(&ca), REVIEWS);
        meet(&server, &ClientTls::new(client).unwrap()).await.unwrap();
    }
}

#[test]
fn keys_are_never_printed() {
    let key = PrivateKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(Ecdsa, secret)");
    let ca = root("mesh");
    let identity = ca.svid(REVIEWS);
    let secret = identity.key().reveal_pem();
    let body: Vec<&str> = secret.lines().filter(|l| !l.starts_with('-')).collect();
    let shown = format!("{identity:?} {:?}", IdentitySource::new(ca.svid(REVIEWS)));
    assert!(body.iter().all(|line| !shown.contains(line)), "{shown}");
    let again = PrivateKey::from_pem(secret.as_bytes()).unwrap();
    assert_eq!(again.public_key_der(), identity.key().public_key_der());
}

#[test]
fn pairs_that_do_not_belong_together_are_refused_with_the_reason() {
    let ca = root("mesh");
    let (one, other) = (ca.svid(REVIEWS), ca.svid(RATINGS));
    let mixed = Identity::from_pem("x", one.chain_pem().as_bytes(), other.key().reveal_pem().as_bytes());
    assert_eq!(mixed.err(), Some(TlsError::KeyMismatch));
    let table: [(&str, &str); 4] = [
        ("", "no PEM block"),
        ("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "certificate 0 is not a valid"),
        ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "not valid PEM"),
        ("-----BEGIN CERTIFICATE-----\nMIIB", "no"),
    ];
    for (text, reason) in table {
        let error = certificates_from_pem("tls.crt", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("tls.crt"), "{text:?}: {error}");
    }
    assert_eq!(PrivateKey::from_pem(b"").err(), Some(TlsError::NoKey));
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(PrivateKey::from_pem(encrypted).err(), Some(TlsError::EncryptedKey));
}

#[test]
fn certificates_are_described_as_envoy_does() {
    use rcgen::DnType;
    let ca = root("mesh");
    let certificate = ca.named(
        &[(DnType::OrganizationName, "Acme, Inc."), (DnType::CommonName, "a b")],
        vec![uri(REVIEWS), dns("reviews.default")],
    );
    let info = PeerInfo::from_chain(&[certificate]).unwrap();
    assert_eq!(info.subject, "CN=a b,O=Acme\\, Inc.");
    assert_eq!(info.issuer, "CN=mesh");
    assert_eq!(
        (info.uri_sans, info.dns_sans),
        (vec![REVIEWS.to_owned()], vec!["reviews.default".to_owned()])
    );
    assert_eq!(info.fingerprint.len(), 64);
}

/// CVE-2020-15104, CVE-2025-66220: names with NUL and other strange bytes, and wildcards that reach too deep.
#[test]
fn poisoned_names_are_refused_and_wildcards_cover_one_label() {
    let ca = root("mesh");
    for poisoned in ["spiffe://cluster.local/ns/default/sa/a\0.evil", "spiffe://cluster.local/ns/a b/sa/c"] {
        let certificate = ca.named(&[], vec![uri(poisoned)]);
        assert!(matches!(PeerInfo::from_chain(&[certificate]), Err(TlsError::BadName(_))), "{poisoned:?}");
    }
    let poisoned = ca.named(&[], vec![dns("good.example.com\0.evil.com")]);
    assert!(matches!(PeerInfo::from_chain(&[poisoned]), Err(TlsError::BadName(_))));
    let table = [
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "a.b.example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "example.com", false),
        ("*.example.com", "*.example.com", false),
        ("*.com", "example.com", false),
        ("*", "com", false),
        ("a*.example.com", "ab.example.com", false),
        ("*.*.example.com", "a.b.example.com", false),
        ("example.com", "example.com", true),
        ("", "", false),
    ];
    for (presented, wanted, covers) in table {
        assert_eq!(san::dns_name_covers(presented, wanted), covers, "{presented} for {wanted}");
    }
}

#[test]
fn istios_cipher_list_is_taken_and_an_unknown_one_is_not() {
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let istio = names(&["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256", "AES256-GCM-SHA384"]);
    assert_eq!(cipher_suites(&istio).unwrap().len(), 2);
    assert!(cipher_suites(&[]).unwrap().is_empty());
    assert!(cipher_suites(&names(&["AES128-SHA"])).is_err());
}
