//! What the service says, and what it comes to.

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::service::auth::v3 as pb;
use serde_json::{Map, Value};

use super::{ExtAuthz, HttpService, Service};
use crate::ask::{Answered, CallFault};
use crate::headers::{HeaderName, Headers, Known};
use crate::request::Request;
use crate::wire::json_of;

/// Whose values, separated by commas, are names of headers to remove.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

pub(crate) enum Verdict {
    Ok(Box<Changes>),
    Denied {
        status: u16,
        headers: Vec<HeaderChange>,
        body: Bytes,
        metadata: Map<String, Value>,
    },
    /// Nobody judged. The service may still say what to answer.
    Error {
        reason: String,
        status: Option<u16>,
        headers: Vec<HeaderChange>,
        body: Bytes,
    },
    /// It wants a header that is none.
    Invalid(String),
    /// Nobody was asked.
    Explaining,
}

/// What becomes of a request that passes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) request: Vec<HeaderChange>,
    remove: Vec<String>,
    pub(crate) response: Vec<HeaderChange>,
    query_set: Vec<(String, String)>,
    query_remove: Vec<String>,
    pub(crate) metadata: Map<String, Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct HeaderChange {
    name: HeaderName,
    value: Bytes,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Set,
    Add,
    AddIfAbsent,
    SetIfPresent,
    /// To a value that is there, after a comma; nothing where there is none.
    Join,
}

impl ExtAuthz {
    pub(crate) fn conclude(&self, called: Result<Answered, CallFault>) -> Verdict {
        match (called, &self.service) {
            (Err(CallFault::Explaining), _) => Verdict::Explaining,
            (Err(fault), _) => error(fault.to_string()),
            (Ok(answer), Service::Http(service)) => service.conclude(answer),
            (Ok(answer), Service::Grpc(_)) => match answer.grpc_message::<pb::CheckResponse>() {
                Ok(response) => conclude_grpc(response),
                Err(fault) => error(format!("gRPC status {}: {}", fault.code, fault.message)),
            },
        }
    }

    /// As much of a denial's body as may be passed on.
    pub(crate) fn cut(&self, body: Bytes) -> Bytes {
        match self.max_denied_body {
            0 => body,
            max => body.slice(..max.min(body.len())),
        }
    }
}

pub(super) fn error(reason: String) -> Verdict {
    Verdict::Error { reason, status: None, headers: Vec::new(), body: Bytes::new() }
}

impl HttpService {
    fn conclude(&self, answer: Answered) -> Verdict {
        let Answered { response, body, .. } = answer;
        let status = response.status;
        if status >= 500 {
            return error(format!("it answers {status}"));
        }
        let mut all = vec![(":status".to_owned(), Bytes::from(status.to_string()))];
        all.extend(response.headers.iter().map(|(name, value)| {
            (String::from_utf8_lossy(name.bytes()).to_ascii_lowercase(), value.clone())
        }));
        let told: Vec<String> = all
            .iter()
            .filter(|(name, _)| name == TO_REMOVE)
            .flat_map(|(_, value)| {
                String::from_utf8_lossy(value).split(',').map(|n| n.trim().to_owned()).collect::<Vec<_>>()
            })
            .filter(|name| !name.is_empty())
            .collect();
        all.retain(|(name, _)| name != TO_REMOVE);
        let metadata = all
            .iter()
            .filter(|(name, _)| self.to_metadata.matches(name.as_bytes()))
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into()))
            .collect();
        let change = |(name, value): &(String, Bytes), how| HeaderChange {
            name: HeaderName::from(name.as_str()),
            value: value.clone(),
            how,
        };
        if status != 200 {
            let headers = all.iter().filter(|(name, _)| match &self.to_client {
                Some(names) => names.matches(name.as_bytes()),
                None => name != ":authority",
            });
            let headers = headers.map(|header| change(header, How::Add)).collect();
            return Verdict::Denied { status, headers, body, metadata };
        }
        let of = |names: &super::Names, how| {
            let matched = all.iter().filter(|(name, _)| names.matches(name.as_bytes()));
            matched.map(|header| change(header, how)).collect::<Vec<_>>()
        };
        let mut request = of(&self.to_upstream, How::Set);
        request.extend(of(&self.append_upstream, How::Add));
        Verdict::Ok(Box::new(Changes {
            request,
            remove: told,
            response: of(&self.to_client_on_success, How::Add),
            metadata,
            ..Changes::default()
        }))
    }
}

pub(super) fn conclude_grpc(response: pb::CheckResponse) -> Verdict {
    use pb::check_response::HttpResponse;
    let code = response.status.as_ref().map_or(0, |status| status.code);
    let mut metadata = response.dynamic_metadata.as_ref().map(json_of).unwrap_or_default();
    match response.http_response {
        _ if code == 0 => {
            let ok = match response.http_response {
                Some(HttpResponse::OkResponse(ok)) => ok,
                _ => pb::OkHttpResponse::default(),
            };
            if let Some(old) = &ok.dynamic_metadata {
                metadata = json_of(old);
            }
            let (request, response) = match (changes(ok.headers), changes(ok.response_headers_to_add)) {
                (Ok(request), Ok(response)) => (request, response),
                (Err(name), _) | (_, Err(name)) => return Verdict::Invalid(name),
            };
            Verdict::Ok(Box::new(Changes {
                request,
                remove: ok.headers_to_remove,
                response,
                query_set: ok.query_parameters_to_set.into_iter().map(|q| (q.key, q.value)).collect(),
                query_remove: ok.query_parameters_to_remove,
                metadata,
            }))
        }
        Some(HttpResponse::ErrorResponse(told)) => match local(told) {
            Ok((status, headers, body)) => {
                Verdict::Error { reason: format!("it says error {code}"), status, headers, body }
            }
            Err(name) => Verdict::Invalid(name),
        },
        Some(HttpResponse::DeniedResponse(told)) => match local(told) {
            Ok((status, headers, body)) => {
                Verdict::Denied { status: status.unwrap_or(403), headers, body, metadata }
            }
            Err(name) => Verdict::Invalid(name),
        },
        _ => Verdict::Denied { status: 403, headers: Vec::new(), body: Bytes::new(), metadata },
    }
}

type Local = (Option<u16>, Vec<HeaderChange>, Bytes);

fn local(told: pb::DeniedHttpResponse) -> Result<Local, String> {
    let code = told.status.map_or(0, |status| status.code);
    let status = super::compile::status_code(code).ok();
    Ok((status, changes(told.headers)?, told.body.into()))
}

/// The error is the name that no header can have, or whose value no header can.
fn changes(list: Vec<core::HeaderValueOption>) -> Result<Vec<HeaderChange>, String> {
    list.into_iter().map(HeaderChange::of).collect()
}

impl HeaderChange {
    pub(crate) fn add(name: &str, value: String) -> Self {
        Self { name: HeaderName::from(name), value: value.into(), how: How::Add }
    }

    pub(crate) fn set(name: &str, value: String) -> Self {
        Self { how: How::Set, ..Self::add(name, value) }
    }

    /// One to add, if it is a header.
    pub(crate) fn checked(name: &str, value: &str) -> Option<Self> {
        let header =
            core::HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() };
        Self::of(core::HeaderValueOption { header: Some(header), ..Default::default() }).ok()
    }

    fn of(option: core::HeaderValueOption) -> Result<Self, String> {
        use core::header_value_option::HeaderAppendAction as Append;
        let header = option.header.unwrap_or_default();
        let how = match (option.append, Append::try_from(option.append_action)) {
            (Some(append), _) if append.value => How::Join,
            (Some(_), _) => How::Set,
            (None, Ok(Append::AppendIfExistsOrAdd)) => How::Add,
            (None, Ok(Append::AddIfAbsent)) => How::AddIfAbsent,
            (None, Ok(Append::OverwriteIfExists)) => How::SetIfPresent,
            (None, Ok(Append::OverwriteIfExistsOrAdd) | Err(_)) => How::Set,
        };
        let value = if header.raw_value.is_empty() {
            Bytes::from(header.value)
        } else {
            Bytes::from(header.raw_value)
        };
        let fits = value.iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\t');
        let name = header.key.strip_prefix(':').unwrap_or(&header.key);
        let named = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !fits || !named {
            return Err(header.key);
        }
        Ok(Self { name: HeaderName::from(header.key.as_str()), value, how })
    }

    pub(crate) fn to_request(&self, request: &mut Request) {
        let pseudo = self.name.is_pseudo() || self.name.known() == Some(Known::Host);
        let before = request.value(&self.name).map(|value| value.into_owned());
        match (self.how, before) {
            (How::Join, Some(before)) if !pseudo => {
                let value = [&before[..], b",", &self.value].concat();
                request.set(&self.name, value.into());
            }
            (How::Join | How::SetIfPresent, None) | (How::AddIfAbsent, Some(_)) => {}
            (How::Add | How::AddIfAbsent, _) if !pseudo => {
                request.headers.append(self.name.clone(), self.value.clone());
            }
            _ => request.set(&self.name, self.value.clone()),
        }
    }

    pub(crate) fn to_response(&self, headers: &mut Headers) {
        if self.name.is_pseudo() {
            return;
        }
        let present = headers.get(&self.name).is_some();
        match self.how {
            How::Set => headers.set(self.name.clone(), self.value.clone()),
            How::SetIfPresent if present => headers.set(self.name.clone(), self.value.clone()),
            How::AddIfAbsent if present => {}
            How::SetIfPresent => {}
            How::Add | How::AddIfAbsent | How::Join => {
                headers.append(self.name.clone(), self.value.clone());
            }
        }
    }
}

impl Changes {
    /// Whether the request's route could be another one.
    pub(crate) fn touch_the_request(&self) -> bool {
        !(self.request.is_empty()
            && self.remove.is_empty()
            && self.query_set.is_empty()
            && self.query_remove.is_empty())
    }

    pub(crate) fn apply(&self, request: &mut Request) {
        for change in &self.request {
            change.to_request(request);
        }
        for name in &self.remove {
            if !name.starts_with(':') && !name.eq_ignore_ascii_case("host") {
                request.headers.remove(&HeaderName::from(name.as_str()));
            }
        }
        if !self.query_set.is_empty() || !self.query_remove.is_empty() {
            self.change_query(request);
        }
    }

    /// As Envoy writes a query anew: sorted by key.
    fn change_query(&self, request: &mut Request) {
        let mut all = std::collections::BTreeMap::<String, Vec<String>>::new();
        for pair in request.query().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        for (key, value) in &self.query_set {
            all.insert(key.clone(), vec![value.clone()]);
        }
        for key in &self.query_remove {
            all.remove(key);
        }
        let pairs: Vec<String> = all
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| format!("{key}={value}")))
            .collect();
        let path = request.path.split('?').next().unwrap_or_default();
        request.path = match pairs.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", pairs.join("&")),
        };
    }
}
