//! DNS, as workloads and resolvers speak it.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent::dns::forward::ResolvConf;
use agent::dns::message::{Code, Query, Records, question, read_answer, refuse};

pub fn dns(data: &[u8]) {
    ResolvConf::parse(&String::from_utf8_lossy(data));
    read_answer(data);
    let query = match Query::parse(data) {
        Ok(query) => query,
        Err(malformed) => {
            refuse(malformed);
            return;
        }
    };
    let records = Records {
        alias: Some("alias.example".into()),
        v4: vec![Ipv4Addr::LOCALHOST; 40],
        v6: vec![Ipv6Addr::LOCALHOST; 40],
    };
    for limit in [query.udp_limit(), usize::from(u16::MAX)] {
        let answer = query.answer(&records, limit);
        assert!(answer.len() <= limit, "{} in {limit}", answer.len());
        assert!(query.is_answered_by(query.id, &answer), "not an answer to its question");
        if query.is_address() {
            assert!(read_answer(&answer).is_some(), "cannot be read: {answer:?}");
        }
    }
    assert!(query.is_answered_by(query.id, &query.respond(Code::NxDomain)));
    question(query.id, &query.name, query.kind);
}
