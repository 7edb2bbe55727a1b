//! What happens when the machine has no more of something.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Proxy, bootstrap, own_address};

fn status(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            while stream.read(&mut bytes).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    address
}

/// CVE-2020-8663: clients that take all descriptors wait, the proxy lives, and serves when there are some again.
#[test]
fn descriptors_that_are_used_up_end_nothing() {
    let (up, host, folder) = (upstream(), own_address(20), tempfile::tempdir().unwrap());
    let mut proxy = Proxy::start_with_descriptors(80, host, &bootstrap(host, up, None, false), folder.path());
    assert_eq!(status(host).as_deref(), Some("200"));
    let held: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(host).ok()).collect();
    assert!(held.len() > 80, "{}", held.len());
    std::thread::sleep(Duration::from_millis(300));
    assert!(proxy.is_running(), "the proxy ended");
    drop(held);
    let served = (0..100).any(|_| {
        let served = status(host).as_deref() == Some("200");
        if !served {
            std::thread::sleep(Duration::from_millis(100));
        }
        served
    });
    assert!(served && proxy.is_running(), "nobody is served any more");
}
