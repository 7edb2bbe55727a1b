//! ratings v2 on a real MariaDB.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One statement a line, as `--init-file` wants it.
const SCHEMA: &str = "\
CREATE DATABASE test;
CREATE TABLE test.ratings (ReviewID INT NOT NULL, Rating INT, PRIMARY KEY (ReviewID));
INSERT INTO test.ratings VALUES (1, 3), (2, 2);
CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY 'password';
GRANT ALL ON *.* TO 'root'@'127.0.0.1';
";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ratings_v2_reads_its_stars_from_a_real_mariadb() {
    let (Some(server), Some(install)) =
        (testkit::peers::need("mariadbd"), testkit::peers::need("mariadb-install-db"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let port = free_port();
    let made = Command::new(install)
        .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let schema = folder.path().join("schema.sql");
    std::fs::write(&schema, SCHEMA).unwrap();
    let _database = Killed(
        Command::new(server)
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.path().join("s").display()))
            .arg(format!("--port={port}"))
            .arg(format!("--init-file={}", schema.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    until(|| TcpStream::connect(("127.0.0.1", port)).ok());
    let web = free_port();
    let _ratings = Killed(
        Command::new(env!("CARGO_BIN_EXE_bookinfo"))
            .args(["ratings", "--version", "v2", "--db-host", "127.0.0.1"])
            .args(["--db-port", &port.to_string(), "--port", &web.to_string()])
            .spawn()
            .unwrap(),
    );
    let answer = until(|| get(web, "/ratings/0").filter(|answer| !answer.contains("error")));
    assert!(answer.contains(r#"{"id":0,"ratings":{"Reviewer1":3,"Reviewer2":2}}"#), "{answer}");
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n").ok()?;
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).ok()?;
    let mut rest = String::new();
    reader.read_to_string(&mut rest).ok()?;
    Some(rest)
}

/// Asks again until there is an answer; fails after half a minute.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}
