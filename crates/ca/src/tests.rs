//! What is granted, what is refused, and what time does to roots. openssl is the second opinion.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base::{ManualClock, SpiffeId, TrustDomain};
use proptest::prelude::*;
use tls::seal::SealKey;
use tls::{Identity, PrivateKey, certificate_request, certificates_from_pem};

use super::*;

const ID: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
const MINUTE: Duration = Duration::from_secs(60);

fn caller() -> Caller {
    Caller { id: ID.parse().unwrap(), method: Method::ServiceAccount }
}

fn seal() -> SealKey {
    SealKey::from_bytes(&[7; 32]).unwrap()
}

fn clock() -> Arc<ManualClock> {
    // A little ahead of openssl's clock, so that what it makes during a test is valid already.
    Arc::new(ManualClock::starting_at(SystemTime::now() + Duration::from_secs(60)))
}

fn request(key: &PrivateKey) -> CertificateRequest {
    CertificateRequest::from_pem(&certificate_request(key, ID).unwrap()).unwrap()
}

fn own(folder: &Path, clock: &Arc<ManualClock>, policy: Policy, life: RootLife) -> Authority {
    use base::Clock as _;
    let root = OwnRoot::load_or_create(folder, seal(), "cluster.local", &life, clock.wall()).unwrap();
    Authority::with_own_root(policy, clock.clone(), root, life).unwrap()
}

fn days(n: u64) -> Duration {
    Duration::from_secs(n * 24 * 3600)
}

fn openssl(folder: &Path, args: &[&str]) -> Option<Output> {
    let program = testkit::peers::need("openssl")?;
    Some(Command::new(program).current_dir(folder).args(args).output().unwrap())
}

fn openssl_ok(folder: &Path, args: &[&str]) -> Option<String> {
    let output = openssl(folder, args)?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "openssl {args:?}: {text}");
    Some(text)
}

#[tokio::test]
async fn openssl_verifies_what_is_issued() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let authority = own(folder.path(), &clock(), Policy::default(), RootLife::for_leaves(days(90)));
    let key = PrivateKey::generate().unwrap();
    let request_pem = certificate_request(&key, ID).unwrap();
    let issued = authority.issue(&request(&key), &caller(), Duration::ZERO).await.unwrap();
    let entries = issued.entries();
    assert_eq!(entries.len(), 2);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("request.pem", &request_pem);
    write("leaf.pem", &entries[0]);
    write("root.pem", &entries[1]);
    let Some(text) = openssl_ok(folder.path(), &["req", "-in", "request.pem", "-verify", "-noout", "-text"])
    else {
        return;
    };
    assert!(text.contains(&format!("URI:{ID}")), "{text}");
    for purpose in ["sslserver", "sslclient"] {
        let args = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "leaf.pem"];
        openssl_ok(folder.path(), &args);
    }
    let text = openssl_ok(folder.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]).unwrap();
    assert!(text.contains("X509v3 Subject Alternative Name: critical"), "{text}");
    assert!(text.contains(&format!("URI:{ID}\n")), "{text}");
    assert!(text.contains("CA:FALSE") && text.contains("Subject: \n"), "{text}");
}

#[tokio::test]
async fn istios_rsa_requests_and_p384_are_signed_and_weak_keys_are_not() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let authority = own(folder.path(), &clock(), Policy::default(), RootLife::for_leaves(days(90)));
    let table: [(&[&str], Option<&str>); 5] = [
        (&["rsa:2048"], None),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], None),
        (&["rsa:1024"], Some("RSA of 1024 bits")),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"], Some("ECDSA on curve 1.3.132.0.10")),
        (&["ed25519"], Some("of algorithm 1.3.101.112")),
    ];
    for (kind, refused) in table {
        let mut args =
            vec!["req", "-new", "-nodes", "-subj", "/O=x", "-keyout", "k.pem", "-out", "r.pem", "-newkey"];
        args.extend(kind);
        if openssl_ok(folder.path(), &args).is_none() {
            return;
        }
        let pem = std::fs::read_to_string(folder.path().join("r.pem")).unwrap();
        match (CertificateRequest::from_pem(&pem), refused) {
            (Ok(request), None) => {
                let issued = authority.issue(&request, &caller(), Duration::ZERO).await.unwrap();
                std::fs::write(folder.path().join("leaf.pem"), &issued.entries()[0]).unwrap();
                std::fs::write(folder.path().join("root.pem"), &issued.entries()[1]).unwrap();
                openssl_ok(folder.path(), &["verify", "-x509_strict", "-CAfile", "root.pem", "leaf.pem"]);
            }
            (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{kind:?}: {error}"),
            (result, expected) => panic!("{kind:?}: {result:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    tls::install_provider();
    let pem = certificate_request(&PrivateKey::generate().unwrap(), ID).unwrap();
    let other = certificate_request(&PrivateKey::generate().unwrap(), ID).unwrap();
    assert_eq!(CertificateRequest::from_pem(&pem).unwrap().asked(), [ID.to_owned()]);
    assert_eq!(CertificateRequest::from_pem("").err(), Some(RequestError::Malformed));
    assert_eq!(CertificateRequest::from_pem(&format!("{pem}{other}")).err(), Some(RequestError::Malformed));
    assert_eq!(CertificateRequest::from_pem(&pem.repeat(100)).err(), Some(RequestError::TooLong));
    let certificate = pem.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    assert_eq!(CertificateRequest::from_pem(&certificate).err(), Some(RequestError::Malformed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_flipped_bit_gets_past_the_signature(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
        let pem = certificate_request(&PrivateKey::generate().unwrap(), ID).unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        // What is signed; the envelope around it carries nothing that is believed.
        let header = |at: usize| match der[at + 1] {
            short if short < 0x80 => (2, usize::from(short)),
            long => {
                let octets = usize::from(long & 0x7f);
                let length = der[at + 2..at + 2 + octets].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
                (2 + octets, length)
            }
        };
        let start = header(0).0;
        let (head, length) = header(start);
        let i = start + position.index(head + length);
        der[i] ^= 1 << bit;
        prop_assert!(CertificateRequest::from_der(&der).is_err(), "byte {}", i);
    }
}

#[tokio::test]
async fn names_come_from_the_caller_and_never_from_the_request() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let authority = own(folder.path(), &clock(), Policy::default(), RootLife::for_leaves(days(90)));
    let key = PrivateKey::generate().unwrap();
    let evil = "spiffe://cluster.local/ns/istio-system/sa/istiod";
    let asked = CertificateRequest::from_pem(&certificate_request(&key, evil).unwrap()).unwrap();
    let issued = authority.issue(&asked, &caller(), Duration::ZERO).await.unwrap();
    let leaf = tls::PeerInfo::from_chain(&issued.chain).unwrap();
    assert_eq!(leaf.uri_sans, [ID.to_owned()]);
    assert!(leaf.dns_sans.is_empty() && leaf.subject.is_empty());
    let foreign = Caller { id: "spiffe://other/ns/a/sa/b".parse().unwrap(), method: Method::Certificate };
    assert!(matches!(
        authority.issue(&request(&key), &foreign, Duration::ZERO).await,
        Err(IssueError::TrustDomain(..))
    ));
}

#[tokio::test]
async fn validity_is_backdated_bounded_and_ends_with_the_signer() {
    tls::install_provider();
    use base::Clock as _;
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let policy = Policy { max_ttl: days(2), ..Policy::default() };
    let life =
        RootLife { validity: days(3), renew_before: Duration::ZERO, announce: days(9), withdraw: days(9) };
    let authority = own(folder.path(), &clock, policy, life);
    let request = request(&PrivateKey::generate().unwrap());
    let caller = caller();
    let issue = |validity| authority.issue(&request, &caller, validity);

    let leaf = tls::PeerInfo::from_chain(&issue(MINUTE).await.unwrap().chain).unwrap();
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap(), 3 * MINUTE);
    assert!(leaf.not_before <= clock.wall() - 2 * MINUTE);
    assert!(matches!(issue(days(3)).await, Err(IssueError::Validity { .. })));

    clock.advance(days(2) + days(1) / 2);
    let root_end = tls::PeerInfo::from_chain(&authority.bundle().current().unwrap().certificates()).unwrap();
    let late = issue(days(2)).await.unwrap();
    assert_eq!(late.not_after, root_end.not_after, "the leaf must not outlive the root");
    clock.advance(days(1));
    assert_eq!(issue(MINUTE).await.err(), Some(IssueError::Sign(SignError::Expired)));
}

#[tokio::test]
async fn a_root_outlives_a_restart_and_its_key_is_not_readable_at_rest() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let life = RootLife::for_leaves(days(1));
    let roots = || own(folder.path(), &clock(), Policy::default(), life).bundle().current().unwrap().to_pem();
    let first = roots();
    assert_eq!(roots(), first);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let content = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&content).contains("PRIVATE KEY"));
    }
    let other = SealKey::from_bytes(&[8; 32]).unwrap();
    let error =
        OwnRoot::load_or_create(folder.path(), other, "x", &life, SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("another key file"), "{error}");
    std::fs::write(folder.path().join("authority.sealed"), b"rubbish").unwrap();
    assert!(OwnRoot::load_or_create(folder.path(), seal(), "x", &life, SystemTime::now()).is_err());
}

/// Whether a peer that trusts this bundle takes this chain, said by our own verifier.
async fn trusted(
    clock: &Arc<ManualClock>,
    bundle: &tls::TrustBundle,
    chain: Vec<tls::CertificateDer<'static>>,
    key: &PrivateKey,
) -> bool {
    let identity = Identity::new(chain, key.clone()).unwrap();
    let server = tls::ServerTls::new(tls::ServerOptions::new(tls::IdentitySource::new(identity))).unwrap();
    let verify = tls::Verify::spiffe(tls::BundleSource::new(bundle.clone()), []);
    let options = tls::ClientOptions { clock: clock.clone(), ..tls::ClientOptions::new(verify) };
    let client = tls::ClientTls::new(options).unwrap();
    let (near, far) = tokio::io::duplex(65536);
    let (served, dialled) = tokio::join!(server.accept(far), client.connect(near));
    served.is_ok() && dialled.is_ok()
}

#[tokio::test]
async fn rotating_the_root_breaks_nobody_at_any_step() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let hour = Duration::from_secs(3600);
    let policy = Policy { default_ttl: 2 * hour, max_ttl: 2 * hour, ..Policy::default() };
    let life = RootLife { validity: days(100), renew_before: days(20), announce: hour, withdraw: 2 * hour };
    let authority = own(folder.path(), &clock, policy.clone(), life);
    let key = PrivateKey::generate().unwrap();
    let bundle = || authority.bundle().current().unwrap();
    let issue = async || authority.issue(&request(&key), &caller(), Duration::ZERO).await.unwrap();

    let old_bundle = bundle();
    clock.advance(days(79));
    authority.tick().unwrap();
    assert_eq!(bundle().certificates().len(), 1, "nothing is due yet");

    clock.advance(days(2));
    authority.tick().unwrap();
    let announced = bundle();
    assert_eq!(announced.certificates().len(), 2, "the next root is announced");
    let during = issue().await;
    assert!(trusted(&clock, &old_bundle, during.chain.clone(), &key).await, "still signed by the old root");
    assert_eq!(during.entries().len(), 2);
    assert_eq!(certificates_from_pem("x", during.entries()[1].as_bytes()).unwrap().len(), 2);

    clock.advance(hour);
    authority.tick().unwrap();
    let switched = issue().await;
    assert!(!trusted(&clock, &old_bundle, switched.chain.clone(), &key).await, "signed by the new root");
    assert!(trusted(&clock, &announced, switched.chain.clone(), &key).await, "which was announced before");
    assert!(trusted(&clock, &bundle(), during.chain.clone(), &key).await, "old leaves are still good");

    let reloaded = own(folder.path(), &clock, policy, life);
    assert_eq!(*reloaded.bundle().current().unwrap(), *bundle(), "a restart forgets nothing");

    clock.advance(2 * hour);
    authority.tick().unwrap();
    assert_eq!(bundle().certificates().len(), 1, "the old root is withdrawn");
    assert!(trusted(&clock, &bundle(), issue().await.chain, &key).await);
    assert_ne!(*bundle(), *old_bundle);
}

/// A root and an intermediate in the files of Istio's Secret, made by openssl with RSA keys as most people do.
fn make_cacerts(work: &Path, target: &Path, name: &str) -> Option<()> {
    let extension = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    std::fs::write(work.join("ext"), extension).unwrap();
    let subject = format!("/O=Acme/CN={name} root");
    openssl_ok(
        work,
        &[
            "req",
            "-x509",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-nodes",
            "-newkey",
            "rsa:2048",
            "-keyout",
            "rk.pem",
            "-out",
            "root-cert.pem",
            "-days",
            "30",
            "-subj",
            &subject,
        ],
    )?;
    let subject = format!("/O=Acme/L=mesh/CN={name} intermediate");
    openssl_ok(
        work,
        &[
            "req",
            "-new",
            "-nodes",
            "-newkey",
            "rsa:2048",
            "-keyout",
            "ca-key.pem",
            "-out",
            "r.pem",
            "-subj",
            &subject,
        ],
    )?;
    openssl_ok(
        work,
        &[
            "x509",
            "-req",
            "-in",
            "r.pem",
            "-CA",
            "root-cert.pem",
            "-CAkey",
            "rk.pem",
            "-CAcreateserial",
            "-days",
            "20",
            "-extfile",
            "ext",
            "-out",
            "ca-cert.pem",
        ],
    )?;
    let chain = ["ca-cert.pem", "root-cert.pem"].map(|f| std::fs::read_to_string(work.join(f)).unwrap());
    std::fs::write(work.join("cert-chain.pem"), chain.concat()).unwrap();
    for file in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
        std::fs::copy(work.join(file), target.join(file)).unwrap();
    }
    Some(())
}

#[tokio::test]
async fn a_plugged_in_intermediate_signs_and_is_replaced_live() {
    tls::install_provider();
    let (work, plug) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(PluggedFiles::at(plug.path()).is_none());
    if make_cacerts(work.path(), plug.path(), "first").is_none() {
        return;
    }
    let clock = clock();
    let folder = PluggedFiles::at(plug.path()).unwrap();
    let authority = Authority::with_plugged(Policy::default(), clock.clone(), folder).unwrap();
    let key = PrivateKey::generate().unwrap();
    let first = authority.issue(&request(&key), &caller(), days(80)).await.unwrap();
    let entries = first.entries();
    assert_eq!(entries.len(), 3, "leaf, intermediate, root");
    for (name, text) in ["leaf.pem", "mid.pem", "top.pem"].iter().zip(&entries) {
        std::fs::write(work.path().join(name), text).unwrap();
    }
    let args = ["verify", "-x509_strict", "-CAfile", "top.pem", "-untrusted", "mid.pem", "leaf.pem"];
    openssl_ok(work.path(), &args);
    let signer = tls::PeerInfo::from_chain(&first.chain[1..]).unwrap();
    assert_eq!(first.not_after, signer.not_after, "never past the signer's end");

    make_cacerts(work.path(), plug.path(), "second").unwrap();
    authority.tick().unwrap();
    let bundle = authority.bundle().current().unwrap();
    assert_eq!(bundle.certificates().len(), 2, "the old root stays while its leaves live");
    let second = authority.issue(&request(&key), &caller(), Duration::ZERO).await.unwrap();
    assert!(tls::PeerInfo::from_chain(&second.chain[1..]).unwrap().subject.contains("second intermediate"));
    assert!(
        trusted(&clock, &bundle, first.chain.clone(), &key).await
            && trusted(&clock, &bundle, second.chain, &key).await
    );

    std::fs::write(plug.path().join("ca-key.pem"), PrivateKey::generate().unwrap().reveal_pem().as_bytes())
        .unwrap();
    let error = authority.tick().unwrap_err().to_string();
    assert!(error.contains("does not belong"), "{error}");
    assert!(
        authority.issue(&request(&key), &caller(), Duration::ZERO).await.is_ok(),
        "the last good one signs on"
    );

    clock.advance(days(91));
    authority.tick().unwrap();
    assert_eq!(authority.bundle().current().unwrap().certificates().len(), 1);
}

#[test]
fn cacerts_that_do_not_belong_together_are_refused_with_the_reason() {
    tls::install_provider();
    let (work, one, two) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if make_cacerts(work.path(), one.path(), "one").is_none() {
        return;
    }
    make_cacerts(work.path(), two.path(), "two").unwrap();
    let read = |f: &Path, name: &str| std::fs::read(f.join(name)).unwrap();
    let (a, b) = (one.path(), two.path());
    let plug = |cert: Vec<u8>, key: Vec<u8>, chain: Vec<u8>, root: Vec<u8>| {
        Plugged::from_pem(&cert, &key, &chain, &root).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let good = plug(read(a, "ca-cert.pem"), read(a, "ca-key.pem"), vec![], read(a, "root-cert.pem"));
    assert_eq!(good, "");
    let wrong_key = plug(read(a, "ca-cert.pem"), read(b, "ca-key.pem"), vec![], read(a, "root-cert.pem"));
    assert!(wrong_key.contains("does not belong"), "{wrong_key}");
    let wrong_root = plug(read(a, "ca-cert.pem"), read(a, "ca-key.pem"), vec![], read(b, "root-cert.pem"));
    assert!(wrong_root.contains("does not reach"), "{wrong_root}");
    let no_root = plug(read(a, "ca-cert.pem"), read(a, "ca-key.pem"), vec![], vec![]);
    assert!(no_root.contains("root-cert.pem: no PEM block"), "{no_root}");
}

struct Reviewer;

impl TokenReviewer for Reviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [&'a str],
    ) -> BoxFuture<'a, Result<ReviewedAccount, ReviewError>> {
        assert_eq!(audiences, ["istio-ca"]);
        let account = |a: &str| ReviewedAccount { namespace: "default".into(), service_account: a.into() };
        Box::pin(std::future::ready(match token {
            "good" => Ok(account("bookinfo-reviews")),
            "odd" => Ok(account("a/../b")),
            "down" => Err(ReviewError::Unavailable("connection refused".into())),
            _ => Err(ReviewError::Refused("token has expired".into())),
        }))
    }
}

#[tokio::test]
async fn callers_prove_themselves_by_token_or_certificate() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let authority = own(folder.path(), &clock(), Policy::default(), RootLife::for_leaves(days(90)));
    let key = PrivateKey::generate().unwrap();
    let issued = authority.issue(&request(&key), &caller(), MINUTE).await.unwrap();
    let certificate = Arc::new(tls::PeerInfo::from_chain(&issued.chain).unwrap());
    let join = Arc::new(JoinTokens::default());
    let authenticators =
        Authenticators { trust_domains: TrustDomains::default(), join, reviewer: Some(Arc::new(Reviewer)) };
    let now = SystemTime::now();
    let ask = async |header: Option<&str>, certificate: Option<Arc<tls::PeerInfo>>, now| {
        authenticators.authenticate(&Credentials::new(header, certificate), b"key", now).await
    };
    let id: SpiffeId = ID.parse().unwrap();
    let ok = |method| Ok(Caller { id: id.clone(), method });
    assert_eq!(ask(Some("Bearer good"), None, now).await, ok(Method::ServiceAccount));
    assert_eq!(ask(Some("bearer good"), None, now).await, ok(Method::ServiceAccount));
    assert_eq!(ask(None, Some(certificate.clone()), now).await, ok(Method::Certificate));
    assert_eq!(ask(None, Some(certificate.clone()), now + 2 * MINUTE).await, Err(AuthenticateError::Expired));
    let expired = ask(Some("Bearer stale"), Some(certificate.clone()), now).await.unwrap_err();
    assert!(!expired.is_temporary() && expired.to_string().contains("token has expired"));
    assert!(ask(Some("Bearer down"), None, now).await.unwrap_err().is_temporary());
    assert!(matches!(ask(Some("Bearer odd"), None, now).await, Err(AuthenticateError::Name(_))));
    for nothing in [None, Some(""), Some("Bearer "), Some("Basic good")] {
        assert_eq!(ask(nothing, None, now).await, Err(AuthenticateError::None), "{nothing:?}");
    }
    let other: TrustDomain = "other.local".parse().unwrap();
    let trust_domains = TrustDomains::new(other.clone(), Vec::new());
    let foreign = Authenticators { trust_domains: trust_domains.clone(), ..authenticators.clone() };
    let shown = Credentials::new(None, Some(certificate));
    assert!(matches!(
        foreign.authenticate(&shown, b"key", now).await,
        Err(AuthenticateError::Certificate(_))
    ));
    // Who has a certificate of an alias gets the next one of the mesh's own domain.
    trust_domains.set(other.clone(), vec![id.trust_domain.clone()]);
    let renewing = foreign.authenticate(&shown, b"key", now).await.unwrap();
    assert_eq!(renewing.id, SpiffeId { trust_domain: other, ..id.clone() });
    assert!(!format!("{:?}", Credentials::new(Some("Bearer good"), None)).contains("good"));
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_identity_issued_or_refused_leaves_an_audit_line() {
    tls::install_provider();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let folder = tempfile::tempdir().unwrap();
    let authority = own(folder.path(), &clock(), Policy::default(), RootLife::for_leaves(days(90)));
    let key = PrivateKey::generate().unwrap();
    authority.issue(&request(&key), &caller(), Duration::ZERO).await.unwrap();
    authority.issue(&request(&key), &caller(), days(1000)).await.unwrap_err();
    let server = authority.issue_server(control_plane_names("istio-system", "canary"), vec![]).await.unwrap();
    drop(guard);
    assert_eq!(
        server.info().dns_sans,
        [
            "istiod.istio-system.svc",
            "istiod-remote.istio-system.svc",
            "istio-pilot.istio-system.svc",
            "istiod-canary.istio-system.svc"
        ]
    );
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let count = |what: &str| text.lines().filter(|l| l.contains("audit") && l.contains(what)).count();
    assert_eq!(count("certificate.issued"), 2, "{text}");
    assert_eq!(count("certificate.refused"), 1, "{text}");
    assert_eq!(count(&format!("identity={ID}")), 2, "{text}");
    assert!(!text.contains("PRIVATE"), "{text}");
}
