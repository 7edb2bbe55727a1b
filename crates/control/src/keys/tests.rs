use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use api::security::RequestAuthentication;
use model::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A server of fixed answers by path; one that it does not know is left waiting.
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, asked): (Arc<Mutex<BTreeMap<String, String>>>, Arc<Mutex<Vec<String>>>) =
            Default::default();
        let (known, seen) = (Arc::clone(&answers), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (known, seen) = (Arc::clone(&known), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    let length = stream.read(&mut buffer).await.unwrap();
                    let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(head);
                    let answer = known.lock().unwrap().get(&path).cloned();
                    match answer {
                        Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, answers, asked }
    }

    fn say(&self, path: &str, status: &str, more: &str, body: &str) {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len());
        self.answers.lock().unwrap().insert(path.into(), answer);
    }

    fn keys(&self, path: &str, id: &str) {
        self.say(path, "200 OK", "", &set(id));
    }

    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn set(id: &str) -> String {
    json!({"keys": [{"kty": "RSA", "kid": id, "n": "YQ", "e": "AQAB"}]}).to_string()
}

fn policy(rule: Value) -> Change {
    let spec: RequestAuthentication = serde_json::from_value(json!({ "jwtRules": [rule] })).unwrap();
    let config = Config::new(NamespacedName::new("default", "a"), 0, spec);
    Change::upsert("Kubernetes", Object::RequestAuthentication(config))
}

fn mesh() -> Change {
    Change::upsert("Kubernetes", Object::Mesh(Box::default()))
}

struct Running {
    facts: mpsc::Sender<Vec<Change>>,
    synced: watch::Sender<bool>,
    out: mpsc::Receiver<Vec<Change>>,
    done: watch::Receiver<bool>,
}

impl Running {
    fn start(refresh: Duration, fetcher: Fetcher) -> Self {
        let (facts, changes) = mpsc::channel(8);
        let (synced, synced_seen) = watch::channel(false);
        let (mut stage, out, done) =
            Stage::new(changes, synced_seen, Arc::default(), "Kubernetes".into(), refresh);
        stage.state.fetcher = fetcher;
        tokio::spawn(stage.run());
        Self { facts, synced, out, done }
    }

    async fn tell(&self, change: Change) {
        self.facts.send(vec![change]).await.unwrap();
    }

    /// What comes next, in words.
    async fn next(&mut self) -> Vec<String> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.out.recv());
        next.await.expect("nothing goes on").unwrap().iter().map(words).collect()
    }
}

fn words(change: &Change) -> String {
    match &change.action {
        Action::Upsert(Object::KeySet(set)) => {
            let keys: Option<Value> = set.keys.as_ref().map(|keys| serde_json::from_str(keys).unwrap());
            let id = keys.map_or("none".into(), |keys| keys["keys"][0]["kid"].as_str().unwrap().to_owned());
            let fault = if set.fault.is_some() { " in doubt" } else { "" };
            format!("keys {id}{fault}")
        }
        Action::Upsert(object) => format!("{:?}", object.reference().kind),
        Action::Delete(at) => format!("no {:?}", at.kind),
    }
}

fn fault(change: &Change) -> &str {
    match &change.action {
        Action::Upsert(Object::KeySet(KeySet { fault: Some(fault), keys: None, .. })) => fault,
        _ => panic!("{change:?}"),
    }
}

#[tokio::test]
async fn a_resource_goes_on_with_its_keys_and_others_do_not_wait_for_it() {
    let server = Server::start().await;
    let mut running = Running::start(Duration::from_millis(50), Fetcher::default());
    running.tell(policy(json!({"issuer": "a", "jwksUri": server.at("/keys"), "timeout": "200ms"}))).await;
    running.tell(mesh()).await;
    assert_eq!(running.next().await, ["Mesh"]);
    running.synced.send_replace(true);
    // The resource is not kept for ever: it goes on without keys, which refuses its tokens.
    assert_eq!(running.next().await, ["keys none in doubt"]);
    assert_eq!(running.next().await, ["RequestAuthentication"]);
    running.done.wait_for(|done| *done).await.unwrap();
    // Tried again, with growing pauses; then new keys come as they change, and stay when the server fails.
    server.keys("/keys", "k1");
    assert_eq!(running.next().await, ["keys k1"]);
    server.keys("/keys", "k2");
    assert_eq!(running.next().await, ["keys k2"]);
    server.say("/keys", "500 Oh", "", "no");
    assert_eq!(running.next().await, ["keys k2 in doubt"]);
    server.keys("/keys", "k2");
    assert_eq!(running.next().await, ["keys k2"]);
    // The same address again is no reason to wait.
    running.tell(policy(json!({"issuer": "b", "jwksUri": server.at("/keys")}))).await;
    assert_eq!(running.next().await, ["RequestAuthentication"]);
    let name = NamespacedName::new("default", "a");
    running.tell(Change::delete("Kubernetes", Kind::RequestAuthentication, name)).await;
    assert_eq!(running.next().await, ["no RequestAuthentication", "no KeySet"]);
}

#[tokio::test]
async fn keys_are_found_by_the_issuers_document_and_replaced_with_it() {
    let server = Server::start().await;
    server.say(
        "/i/.well-known/openid-configuration",
        "200 OK",
        "",
        &json!({"jwks_uri": server.at("/moved")}).to_string(),
    );
    server.say("/moved", "302 Found", "location: /keys\r\n", "");
    server.keys("/keys", "k1");
    let mut running = Running::start(REFRESH, Fetcher::default());
    running.tell(policy(json!({"issuer": server.at("/i/")}))).await;
    assert_eq!(running.next().await, ["keys k1"]);
    assert_eq!(running.next().await, ["RequestAuthentication"]);
    let asked = server.asked.lock().unwrap()[0].to_ascii_lowercase();
    assert!(asked.contains(&format!("\r\nhost: {}\r\n", server.address)), "{asked}");
    // The old keys stay until the new ones are there.
    server.keys("/other", "k2");
    running.tell(policy(json!({"issuer": "a", "jwksUri": server.at("/other")}))).await;
    assert_eq!(running.next().await, ["keys k2"]);
    assert_eq!(running.next().await, ["RequestAuthentication", "no KeySet"]);
    // Keys that stand in the resource need nobody.
    running.tell(policy(json!({"issuer": "a", "jwks": set("k3")}))).await;
    assert_eq!(running.next().await, ["RequestAuthentication", "no KeySet"]);
}

#[tokio::test]
async fn what_must_not_be_asked_or_makes_no_sense_is_said_and_yields_no_keys() {
    let server = Server::start().await;
    server.say("/large", "200 OK", "", &"x".repeat(2 << 20));
    server.say("/html", "200 OK", "", "<html>");
    server.say("/gone", "404 Not Found", "", &set("k"));
    server.say("/lost", "302 Found", "", "");
    server.say("/loop", "302 Found", "location: /loop\r\n", "");
    server.say("/inside", "302 Found", "location: http://inside.example/latest/meta-data\r\n", "");
    let local = server.address.ip();
    let fetcher = Fetcher::new(move |host, port| {
        let address = match host.as_str() {
            // A name that nobody would suspect.
            "inside.example" => "169.254.169.254".parse().unwrap(),
            "six.example" => "fd00:ec2::254".parse().unwrap(),
            _ => local,
        };
        Box::pin(async move { Ok(vec![SocketAddr::new(local, port), SocketAddr::new(address, port)]) })
    });
    for (uri, expected) in [
        ("http://inside.example/".to_owned(), "inside.example is 169.254.169.254, a link-local address"),
        ("http://six.example/".to_owned(), "fd00:ec2::254, a cloud's metadata service"),
        (server.at("/inside"), "inside.example is 169.254.169.254"),
        (server.at("/large"), "longer than 1048576 bytes"),
        (server.at("/html"), "is no JSON"),
        (server.at("/gone"), "answers 404 Not Found"),
        (server.at("/lost"), "does not say where to"),
        (server.at("/loop"), "leads on more than 3 times"),
        (server.at("/silent"), "no answer within 300ms"),
        ("ftp://a.example/".to_owned(), "neither https nor http"),
    ] {
        let mut running = Running::start(REFRESH, fetcher.clone());
        running.tell(policy(json!({"issuer": "a", "jwksUri": uri, "timeout": "300ms"}))).await;
        let told = running.out.recv().await.unwrap();
        assert!(fault(&told[0]).contains(expected), "{uri}: {}", fault(&told[0]));
    }
}
