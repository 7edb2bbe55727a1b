//! The wire form of DNS (RFC 1035, EDNS(0) of RFC 6891), as far as an answering proxy needs it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
const OPT: u16 = 41;
const ANY: u16 = 255;
const IN: u16 = 1;

const HEADER: usize = 12;
const MAX_NAME: usize = 255;
/// What a client that says nothing can take over UDP.
const PLAIN_UDP: usize = 512;
/// More than this is not sent over UDP even to who asks for it: fragments get lost.
const MOST_UDP: usize = 1232;
/// How long answers may be kept; the table may change any time.
const TTL: u32 = 30;

/// A question that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    /// Lower case, without the dot at the end; empty for the root.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    recursion_desired: bool,
    /// The question as it came, whose spelling the answer repeats.
    question: Vec<u8>,
    /// The size that an OPT record offers, if there is one.
    edns: Option<usize>,
}

/// What is wrong with a message. Where there is at least an id, an error can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not even a header, or no question to answer: to be dropped.
    Silent,
    FormErr(u16),
    NotImplemented(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
}

/// What is answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// The name that the one asked for is an alias of.
    pub alias: Option<String>,
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
}

impl Query {
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER] = message.first_chunk().ok_or(Malformed::Silent)?;
        let word = |i: usize| u16::from_be_bytes([header[i], header[i + 1]]);
        let (id, flags) = (word(0), word(2));
        if flags & 0x8000 != 0 {
            return Err(Malformed::Silent);
        }
        if flags & 0x7800 != 0 {
            return Err(Malformed::NotImplemented(id));
        }
        let [questions, answers, authorities, additional] = [word(4), word(6), word(8), word(10)];
        if questions != 1 || answers != 0 || authorities != 0 {
            return Err(Malformed::FormErr(id));
        }
        let bad = Malformed::FormErr(id);
        let (name, after) = read_name(message, HEADER).ok_or(bad)?;
        let tail = message.get(after..after + 4).ok_or(bad)?;
        let (kind, class) = (u16::from_be_bytes([tail[0], tail[1]]), u16::from_be_bytes([tail[2], tail[3]]));
        let edns = if additional > 0 { read_opt(message, after + 4) } else { None };
        Ok(Self {
            id,
            name,
            kind,
            class,
            recursion_desired: flags & 0x0100 != 0,
            question: message[HEADER..after + 4].to_vec(),
            edns,
        })
    }

    pub fn is_address(&self) -> bool {
        self.class == IN && matches!(self.kind, A | AAAA | ANY)
    }

    /// How large an answer over UDP may be.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP, |size| size.clamp(PLAIN_UDP, MOST_UDP))
    }

    /// Whether this message is an answer to this question: same id, same question.
    pub fn is_answered_by(&self, id: u16, message: &[u8]) -> bool {
        message.len() >= HEADER
            && message[..2] == id.to_be_bytes()
            && message[2] & 0x80 != 0
            && message
                .get(HEADER..HEADER + self.question.len())
                .is_some_and(|q| q.eq_ignore_ascii_case(&self.question))
    }

    /// An answer with nothing in it.
    pub fn respond(&self, code: Code) -> Vec<u8> {
        self.assemble(code, 0, false, &[])
    }

    /// An answer from the table: what fits into `limit` bytes, and the mark of truncation if that is not all.
    pub fn answer(&self, records: &Records, limit: usize) -> Vec<u8> {
        // 0xC00C points at the name of the question.
        let (mut body, mut count, mut owner) = (Vec::new(), 0u16, vec![0xc0, 0x0c]);
        let room = limit.saturating_sub(HEADER + self.question.len() + OPT_RECORD.len());
        if let Some(alias) = &records.alias
            && let Some(target) = write_name(alias)
        {
            push_record(&mut body, &owner, CNAME, &target);
            owner = target;
            count += 1;
        }
        let v4 = records.v4.iter().filter(|_| self.kind != AAAA).map(|a| (A, a.octets().to_vec()));
        let v6 = records.v6.iter().filter(|_| self.kind != A).map(|a| (AAAA, a.octets().to_vec()));
        let mut truncated = false;
        for (kind, data) in v4.chain(v6) {
            if body.len() + owner.len() + 10 + data.len() > room || count == u16::MAX {
                truncated = true;
                break;
            }
            push_record(&mut body, &owner, kind, &data);
            count += 1;
        }
        self.assemble(Code::NoError, count, truncated, &body)
    }

    fn assemble(&self, code: Code, answers: u16, truncated: bool, body: &[u8]) -> Vec<u8> {
        // Response, authoritative, recursion available.
        let mut flags = 0x8480 | code as u16;
        flags |= if self.recursion_desired { 0x0100 } else { 0 };
        flags |= if truncated { 0x0200 } else { 0 };
        let mut out = Vec::with_capacity(HEADER + self.question.len() + body.len() + OPT_RECORD.len());
        for word in [self.id, flags, 1, answers, 0, u16::from(self.edns.is_some())] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.question);
        out.extend_from_slice(body);
        if self.edns.is_some() {
            out.extend_from_slice(&OPT_RECORD);
        }
        out
    }
}

/// The answer to a message that could not be understood, if it had an id.
pub fn refuse(malformed: Malformed) -> Option<Vec<u8>> {
    let (id, code) = match malformed {
        Malformed::Silent => return None,
        Malformed::FormErr(id) => (id, Code::FormErr),
        Malformed::NotImplemented(id) => (id, Code::NotImp),
    };
    let words = [id, 0x8080 | code as u16, 0, 0, 0, 0];
    Some(words.iter().flat_map(|w| w.to_be_bytes()).collect())
}

/// Root name, OPT, our UDP size, nothing else.
const OPT_RECORD: [u8; 11] =
    [0, 0, OPT as u8, (MOST_UDP >> 8) as u8, (MOST_UDP & 0xff) as u8, 0, 0, 0, 0, 0, 0];

fn push_record(body: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
    body.extend_from_slice(owner);
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(&IN.to_be_bytes());
    body.extend_from_slice(&TTL.to_be_bytes());
    // An address or a name: at most 255 bytes.
    body.extend_from_slice(&(data.len() as u16).to_be_bytes());
    body.extend_from_slice(data);
}

/// A name without pointers, which a question has no use for. Returns it in lower case with what follows it.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let start = at;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 || at + length - start > MAX_NAME {
            return None;
        }
        let label = message.get(at..at + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            // A dot inside a label, or bytes beyond ASCII, could pass for another name.
            if !byte.is_ascii_graphic() || *byte == b'.' {
                return None;
            }
            name.push(char::from(byte.to_ascii_lowercase()));
        }
        at += length;
    }
}

/// The size that the first additional record offers, if it is an OPT.
fn read_opt(message: &[u8], at: usize) -> Option<usize> {
    let record = message.get(at..at + 5)?;
    let kind = u16::from_be_bytes([record[1], record[2]]);
    (record[0] == 0 && kind == OPT).then(|| usize::from(u16::from_be_bytes([record[3], record[4]])))
}

fn write_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|l| !l.is_empty()) {
        if label.len() > 63 {
            return None;
        }
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    (out.len() <= MAX_NAME).then_some(out)
}

/// What an answer says of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: u8,
    /// It did not fit: ask again over TCP.
    pub truncated: bool,
    pub addresses: Vec<IpAddr>,
    /// The shortest life of the records, in seconds; absent where there are none.
    pub ttl: Option<u32>,
}

/// Reads the addresses in an answer to a question for them, whatever alias they stand under. `None` if it is malformed.
pub fn read_answer(message: &[u8]) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let (flags, questions, answers) = (word(2)?, word(4)?, word(6)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = skip_name(message, at)? + 4;
    }
    let truncated = flags & 0x0200 != 0;
    let mut answer = Answer { code: (flags & 15) as u8, truncated, addresses: Vec::new(), ttl: None };
    for _ in 0..answers {
        at = skip_name(message, at)?;
        let (kind, class, length) = (word(at)?, word(at + 2)?, usize::from(word(at + 8)?));
        let ttl = u32::from_be_bytes(*message.get(at + 4..)?.first_chunk()?);
        let data = message.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        let address: IpAddr = match (kind, class) {
            (A, IN) => (*<&[u8; 4]>::try_from(data).ok()?).into(),
            (AAAA, IN) => (*<&[u8; 16]>::try_from(data).ok()?).into(),
            _ => continue,
        };
        answer.addresses.push(address);
        answer.ttl = Some(answer.ttl.map_or(ttl, |least| least.min(ttl)));
    }
    Some(answer)
}

/// The end of a name, which may end in a pointer.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length @ ..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// A question, for whoever asks.
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = [id, 0x0100, 1, 0, 0, 0].iter().flat_map(|w: &u16| w.to_be_bytes()).collect();
    out.extend(write_name(name)?);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(words: [u16; 6]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn a_question_is_read_and_answered_in_its_own_spelling() {
        let mut message = header([7, 0x0100, 1, 0, 0, 0]);
        message.extend(b"\x07ReViEwS\x07default\0\0\x01\0\x01");
        let query = Query::parse(&message).unwrap();
        assert_eq!((query.name.as_str(), query.kind, query.udp_limit()), ("reviews.default", A, 512));
        let records = Records { v4: vec![[10, 96, 0, 1].into()], ..Records::default() };
        let answer = query.answer(&records, 512);
        assert_eq!(answer[..12], header([7, 0x8580, 1, 1, 0, 0]));
        assert_eq!(&answer[12..33], &message[12..]);
        assert_eq!(&answer[33..], b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\x60\0\x01");
        assert!(query.is_answered_by(7, &answer) && !query.is_answered_by(8, &answer));
        assert!(!query.is_answered_by(7, &message), "a question is no answer");
    }

    #[test]
    fn an_alias_comes_before_the_addresses_it_leads_to() {
        let query = Query::parse(&question(1, "a.b.search", A).unwrap()).unwrap();
        let records = Records { alias: Some("a.b".into()), v4: vec![[1, 2, 3, 4].into()], v6: vec![] };
        let answer = query.answer(&records, 512);
        let tail = b"\xc0\x0c\0\x05\0\x01\0\0\0\x1e\0\x05\x01a\x01b\0\x01a\x01b\0\0\x01\0\x01\0\0\0\x1e\0\x04\x01\x02\x03\x04";
        assert!(answer.ends_with(tail), "{answer:02x?}");
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let many = Records { v4: (0..200u32).map(Ipv4Addr::from).collect(), ..Records::default() };
        let plain = Query::parse(&question(1, "a", A).unwrap()).unwrap();
        let cut = plain.answer(&many, plain.udp_limit());
        assert!(cut.len() <= 512 && cut[2] & 0x02 != 0);
        let whole = plain.answer(&many, 65_535);
        assert!(whole[2] & 0x02 == 0 && whole[6..8] == 200u16.to_be_bytes());
        let mut offered = question(1, "a", A).unwrap();
        offered[11] = 1;
        offered.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Query::parse(&offered).unwrap().udp_limit(), 1232);
        let answer = Query::parse(&offered).unwrap().respond(Code::NxDomain);
        assert!(answer.ends_with(&OPT_RECORD) && answer[3] & 15 == 3);
    }

    #[test]
    fn malformed_messages_are_told_apart() {
        let ok = question(9, "a.b", A).unwrap();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = ok.clone();
            change(&mut message);
            Query::parse(&message).err()
        };
        assert_eq!(with(&|_| ()), None);
        assert_eq!(with(&|m| m.truncate(11)), Some(Malformed::Silent));
        assert_eq!(with(&|m| m[2] |= 0x80), Some(Malformed::Silent));
        assert_eq!(with(&|m| m[2] |= 0x28), Some(Malformed::NotImplemented(9)));
        assert_eq!(with(&|m| m[5] = 2), Some(Malformed::FormErr(9)));
        assert_eq!(with(&|m| m[5] = 0), Some(Malformed::FormErr(9)));
        assert_eq!(with(&|m| m[7] = 1), Some(Malformed::FormErr(9)));
        assert_eq!(with(&|m| m.truncate(18)), Some(Malformed::FormErr(9)));
        assert_eq!(with(&|m| m[12] = 0xc0), Some(Malformed::FormErr(9)), "a pointer");
        assert_eq!(with(&|m| m[12] = 64), Some(Malformed::FormErr(9)), "a label too long");
        assert_eq!(with(&|m| m[13] = b'.'), Some(Malformed::FormErr(9)), "a dot in a label");
        assert_eq!(with(&|m| m[13] = 0), Some(Malformed::FormErr(9)), "a NUL in a label");
        let long = header([9, 0, 1, 0, 0, 0]).into_iter().chain([63u8; 64].into_iter().cycle().take(64 * 5));
        assert_eq!(Query::parse(&long.collect::<Vec<_>>()).err(), Some(Malformed::FormErr(9)));
        assert_eq!(refuse(Malformed::Silent), None);
        assert_eq!(refuse(Malformed::FormErr(9)).unwrap()[..4], [0, 9, 0x80, 0x81]);
    }

    #[test]
    fn addresses_are_read_behind_aliases_with_the_shortest_life() {
        let query = Query::parse(&question(1, "a.b.search", A).unwrap()).unwrap();
        let records = Records { alias: Some("a.b".into()), v4: vec![[1, 2, 3, 4].into()], v6: vec![] };
        let mut message = query.answer(&records, 512);
        let read = read_answer(&message).unwrap();
        assert_eq!((read.addresses, read.ttl), (vec![IpAddr::from([1, 2, 3, 4])], Some(30)));
        message.truncate(message.len() - 1);
        assert_eq!(read_answer(&message), None);
        let none = read_answer(&query.respond(Code::NxDomain)).unwrap();
        assert_eq!((none.code, none.addresses.len(), none.ttl), (3, 0, None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), limit in 0usize..600) {
            let _ = read_answer(&bytes);
            if let Ok(query) = Query::parse(&bytes) {
                let records = Records {
                    alias: Some(query.name.clone()),
                    v4: vec![[1, 1, 1, 1].into(); 40],
                    v6: vec![Ipv6Addr::LOCALHOST; 40],
                };
                let _ = query.answer(&records, limit);
                prop_assert!(query.is_answered_by(query.id, &query.respond(Code::ServFail)));
            }
        }

        #[test]
        fn names_survive_the_wire(labels in proptest::collection::vec("[a-z0-9_-]{1,63}", 1..4)) {
            let name = labels.join(".");
            let query = Query::parse(&question(1, &name, AAAA).unwrap()).unwrap();
            prop_assert_eq!(query.name, name);
        }
    }
}
