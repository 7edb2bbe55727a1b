//! DestinationRule, and its parts that other kinds share.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::rules;
use super::{Meta, note};
use crate::error::{FieldError, Path, Validation};
use crate::networking::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DestinationRule,
    H2UpgradePolicy, HttpSettings, LoadBalancerSettings, LocalityLoadBalancerSetting, OutlierDetection,
    SimpleLb, TrafficPolicy, WarmupConfiguration,
};

/// Maglev's table must have fewer entries.
const LARGEST_TABLE: u64 = 5_000_011;

pub(super) fn check(it: &DestinationRule, meta: &Meta<'_>, spec: &Path, out: &mut Validation) {
    if it.host.parse::<IpAddr>().is_err() {
        note(out, rules::host(&spec.field("host"), &it.host));
    }
    if let Some(policy) = &it.traffic_policy {
        traffic_policy(policy, &spec.field("trafficPolicy"), out);
    }
    let mut names = HashSet::new();
    for (index, subset) in it.subsets.iter().enumerate() {
        let path = spec.field("subsets").index(index);
        if !names.insert(subset.name.as_str()) {
            out.error(FieldError::duplicate(&path.field("name"), subset.name.as_str()));
        }
        note(out, rules::dns_label(&path.field("name"), &subset.name, "subset's name"));
        rules::label_map(&path.field("labels"), &subset.labels, out);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &path.field("trafficPolicy"), out);
        }
    }
    rules::export_to(spec, &it.export_to, meta.namespace, false, out);
    if let Some(selector) = &it.workload_selector {
        rules::selected(&selector.match_labels, &spec.field("workloadSelector").field("matchLabels"), out);
        let elsewhere = it.export_to.iter().any(|entry| entry != "." && entry != meta.namespace);
        if elsewhere {
            let detail = "must be this namespace alone beside workloadSelector";
            out.error(
                FieldError::invalid(&spec.field("exportTo"), it.export_to.clone(), detail)
                    .hint("write \".\""),
            );
        }
    }
}

fn traffic_policy(it: &TrafficPolicy, path: &Path, out: &mut Validation) {
    if *it == TrafficPolicy::default() {
        out.error(FieldError::required(path, "at least one field"));
    }
    let parts = (&it.load_balancer, &it.connection_pool, &it.outlier_detection, &it.tls);
    policy_parts(parts, path, out);
    for (index, entry) in it.port_level_settings.iter().enumerate() {
        let path = path.field("portLevelSettings").index(index);
        match &entry.port {
            Some(port) => note(out, rules::port(&path.field("port").field("number"), port.number)),
            None => out.error(FieldError::required(&path.field("port"), "")),
        }
        let parts = (&entry.load_balancer, &entry.connection_pool, &entry.outlier_detection, &entry.tls);
        if matches!(parts, (None, None, None, None)) {
            out.error(FieldError::required(
                &path,
                "one of loadBalancer, connectionPool, outlierDetection and tls",
            ));
        }
        policy_parts(parts, &path, out);
    }
}

type PolicyParts<'a> = (
    &'a Option<LoadBalancerSettings>,
    &'a Option<ConnectionPoolSettings>,
    &'a Option<OutlierDetection>,
    &'a Option<ClientTlsSettings>,
);

fn policy_parts((balancer, pool, outlier, tls): PolicyParts<'_>, path: &Path, out: &mut Validation) {
    if let Some(balancer) = balancer {
        load_balancer(balancer, &path.field("loadBalancer"), out);
    }
    if let Some(pool) = pool {
        connection_pool(pool, &path.field("connectionPool"), out);
    }
    if let Some(outlier) = outlier {
        outlier_detection(outlier, &path.field("outlierDetection"), out);
    }
    if let Some(tls) = tls {
        client_tls(tls, &path.field("tls"), out);
    }
}

pub(super) fn outlier_detection(it: &OutlierDetection, path: &Path, out: &mut Validation) {
    note(out, rules::whole_percent(&path.field("maxEjectionPercent"), it.max_ejection_percent));
    note(out, rules::whole_percent(&path.field("minHealthPercent"), it.min_health_percent));
    let local = it.consecutive_local_origin_failures.unwrap_or(0);
    if local > 0 && !it.split_external_local_origin_errors {
        let detail = "needs splitExternalLocalOriginErrors: true";
        out.error(FieldError::invalid(&path.field("consecutiveLocalOriginFailures"), local, detail));
    }
}

pub(super) fn connection_pool(it: &ConnectionPoolSettings, path: &Path, out: &mut Validation) {
    if it.tcp.is_none() && it.http.is_none() {
        out.error(FieldError::required(path, "one of tcp and http"));
    }
    if let Some(tcp) = &it.tcp {
        note(out, rules::not_negative(&path.field("tcp").field("maxConnections"), tcp.max_connections));
    }
    if let Some(http) = &it.http {
        http_settings(http, &path.field("http"), out);
    }
}

fn http_settings(it: &HttpSettings, path: &Path, out: &mut Validation) {
    for (field, value) in [
        ("http1MaxPendingRequests", it.http1_max_pending_requests),
        ("http2MaxRequests", it.http2_max_requests),
        ("maxRequestsPerConnection", it.max_requests_per_connection),
        ("maxRetries", it.max_retries),
        ("maxConcurrentStreams", it.max_concurrent_streams),
    ] {
        note(out, rules::not_negative(&path.field(field), value));
    }
    if it.use_client_protocol && it.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
        let detail = "must not be set beside h2UpgradePolicy: UPGRADE";
        out.error(FieldError::invalid(&path.field("useClientProtocol"), true, detail));
    }
    if let Some(keepalive) = &it.http2_keep_alive {
        for (field, set) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
            if set.is_none() {
                out.error(FieldError::required(&path.field("http2KeepAlive").field(field), ""));
            }
        }
    }
}

fn load_balancer(it: &LoadBalancerSettings, path: &Path, out: &mut Validation) {
    if let Some(hash) = &it.consistent_hash {
        consistent_hash(hash, &path.field("consistentHash"), out);
    }
    if let Some(locality) = &it.locality_lb_setting {
        locality_setting(locality, &path.field("localityLbSetting"), out);
    }
    if let Some(settings) = &it.warmup {
        warmup(settings, &path.field("warmup"), out);
    }
    let shares = matches!(
        it.simple.unwrap_or_default(),
        SimpleLb::Unspecified | SimpleLb::RoundRobin | SimpleLb::LeastRequest | SimpleLb::LeastConn
    );
    let field =
        it.warmup.as_ref().map(|_| "warmup").or(it.warmup_duration_secs.map(|_| "warmupDurationSecs"));
    if let Some(field) = field.filter(|_| !shares || it.consistent_hash.is_some()) {
        let error = FieldError::forbidden(&path.field(field), "acts on ROUND_ROBIN and LEAST_REQUEST only");
        out.error(error.hint("write simple: ROUND_ROBIN, or take it out"));
    }
}

fn warmup(it: &WarmupConfiguration, path: &Path, out: &mut Validation) {
    if it.duration.is_none() {
        out.error(FieldError::required(&path.field("duration"), ""));
    }
    if let Some(percent) = it.minimum_percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        let detail = "must be a percentage, from 0 to 100";
        out.error(FieldError::invalid(&path.field("minimumPercent"), percent, detail));
    }
    if let Some(aggression) = it.aggression.filter(|aggression| aggression.is_nan() || *aggression <= 0.0) {
        let detail = "must be greater than 0";
        out.error(FieldError::invalid(&path.field("aggression"), aggression, detail).hint("1 is linear"));
    }
}

fn consistent_hash(it: &ConsistentHashLb, path: &Path, out: &mut Validation) {
    let by_address = it.use_source_ip == Some(true);
    let named = it.http_header_name.is_some() || it.http_query_parameter_name.is_some();
    if !by_address && !named && it.http_cookie.is_none() {
        let what = "one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName";
        out.error(FieldError::required(path, what));
    }
    if let Some(name) = &it.http_header_name {
        note(out, rules::header_name(&path.field("httpHeaderName"), name));
    }
    if it.http_query_parameter_name.as_deref() == Some("") {
        out.error(FieldError::required(&path.field("httpQueryParameterName"), ""));
    }
    if let Some(cookie) = &it.http_cookie {
        let path = path.field("httpCookie");
        if cookie.name.is_empty() {
            out.error(FieldError::required(&path.field("name"), ""));
        }
        let mut names = HashSet::new();
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            let path = path.field("attributes").index(index).field("name");
            if attribute.name.is_empty() {
                out.error(FieldError::required(&path, ""));
            } else if !names.insert(&attribute.name) {
                out.error(FieldError::duplicate(&path, attribute.name.as_str()));
            }
        }
    }
    let algorithm = it.ring_hash.is_some() || it.maglev.is_some();
    if it.minimum_ring_size != 0 && algorithm {
        let detail = "must not be set beside ringHash or maglev";
        out.error(FieldError::invalid(&path.field("minimumRingSize"), it.minimum_ring_size, detail));
    }
    if let Some(size) = it.maglev.as_ref().map(|maglev| maglev.table_size)
        && (size >= LARGEST_TABLE || !is_prime(size))
    {
        let detail = format!("must be a prime below {LARGEST_TABLE}");
        let error = FieldError::invalid(&path.field("maglev").field("tableSize"), size, detail);
        out.error(error.hint("65537 is a good one"));
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

pub(super) fn locality_setting(it: &LocalityLoadBalancerSetting, path: &Path, out: &mut Validation) {
    if !it.distribute.is_empty() && !it.failover.is_empty() {
        out.error(FieldError::invalid(path, "object", "must not have both distribute and failover"));
    }
    let from: Vec<_> = it.distribute.iter().map(|entry| entry.from.as_str()).collect();
    localities(&from, &path.field("distribute"), out);
    for (index, entry) in it.distribute.iter().enumerate() {
        let path = path.field("distribute").index(index).field("to");
        shares(&entry.to, &path, out);
        localities(&entry.to.keys().map(String::as_str).collect::<Vec<_>>(), &path, out);
    }
    for (index, entry) in it.failover.iter().enumerate() {
        let path = path.field("failover").index(index);
        for (field, region) in [("from", &entry.from), ("to", &entry.to)] {
            if region.is_empty() {
                out.error(FieldError::required(&path.field(field), "a region"));
            } else if region.contains(['/', '*']) {
                let detail = "must be a region, without zone or wildcard";
                out.error(FieldError::invalid(&path.field(field), region.as_str(), detail));
            }
        }
        if entry.from == entry.to {
            out.error(FieldError::invalid(&path.field("to"), entry.to.as_str(), "must differ from `from`"));
        }
    }
    for (index, label) in it.failover_priority.iter().enumerate() {
        let key = label.split_once('=').map_or(label.as_str(), |(key, _)| key);
        let path = path.field("failoverPriority").index(index);
        if !crate::labels::is_key(key) {
            out.error(FieldError::invalid(&path, label.as_str(), "must be a label: KEY or KEY=VALUE"));
        } else if key.starts_with("topology.") && !it.failover.is_empty() {
            let detail = "must not be a topology label beside failover";
            out.error(FieldError::invalid(&path, label.as_str(), detail));
        }
    }
}

fn shares(to: &BTreeMap<String, u32>, path: &Path, out: &mut Validation) {
    for (locality, share) in to {
        if !(1..=100).contains(share) {
            out.error(FieldError::invalid(&path.key(locality), *share, "must be a share, from 1 to 100"));
        }
    }
    let sum: u64 = to.values().map(|share| u64::from(*share)).sum();
    if sum != 100 {
        out.error(FieldError::invalid(path, sum, "must add up to 100"));
    }
}

/// `region/zone/subzone` with a wildcard at the end only; none may cover another.
fn localities(list: &[&str], path: &Path, out: &mut Validation) {
    for (index, locality) in list.iter().enumerate() {
        let stars = locality.matches('*').count();
        let empty = locality.split('/').any(str::is_empty);
        if stars > 1 || stars == 1 && !locality.ends_with('*') || empty || locality.split('/').count() > 3 {
            let detail = "must be region/zone/subzone, with \"*\" at the end only";
            out.error(FieldError::invalid(path, *locality, detail));
        }
        if let Some(other) =
            list[..index].iter().find(|other| covers(other, locality) || covers(locality, other))
        {
            out.error(FieldError::invalid(path, *locality, format!("must not overlap with {other:?}")));
        }
    }
}

fn covers(wide: &str, narrow: &str) -> bool {
    let wide = wide.trim_end_matches('*').trim_end_matches('/');
    wide.is_empty() || narrow == wide || narrow.strip_prefix(wide).is_some_and(|rest| rest.starts_with('/'))
}

fn client_tls(it: &ClientTlsSettings, path: &Path, out: &mut Validation) {
    let files = [
        ("clientCertificate", &it.client_certificate),
        ("privateKey", &it.private_key),
        ("caCertificates", &it.ca_certificates),
    ];
    let secret = !it.credential_name.is_empty();
    let originates = matches!(it.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    for (field, _) in files.iter().filter(|(_, file)| originates && secret && !file.is_empty()) {
        let detail = "must not be set beside credentialName";
        out.error(FieldError::invalid(&path.field(field), "string", detail));
    }
    if it.mode == ClientTlsMode::Mutual && !secret {
        for (field, _) in files[..2].iter().filter(|(_, file)| file.is_empty()) {
            out.error(FieldError::required(&path.field(field), "or credentialName, for MUTUAL"));
        }
    }
    if it.insecure_skip_verify == Some(true) && originates {
        let roots = !it.ca_certificates.is_empty() || (secret && it.mode == ClientTlsMode::Simple);
        if roots || !it.subject_alt_names.is_empty() {
            let detail = "must not be set beside caCertificates, credentialName or subjectAltNames";
            out.error(FieldError::invalid(&path.field("insecureSkipVerify"), true, detail));
        }
    }
    if it.mode == ClientTlsMode::IstioMutual {
        for (field, _) in files.iter().filter(|(_, file)| !file.is_empty()) {
            let detail = "must not be set for ISTIO_MUTUAL, which uses the mesh's certificates";
            out.error(FieldError::invalid(&path.field(field), "string", detail));
        }
        if secret {
            let detail = "must not be set for ISTIO_MUTUAL, which uses the mesh's certificates";
            out.error(FieldError::invalid(
                &path.field("credentialName"),
                it.credential_name.as_str(),
                detail,
            ));
        }
    }
}
