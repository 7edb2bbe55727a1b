//! Which resources a cluster, a listener or a scope refers to and expects over the same stream.

use prost::Message as _;
use proto::pb::envoy::config::cluster::v3::{Cluster, cluster};
use proto::pb::envoy::config::core::v3::{ConfigSource, TransportSocket, config_source};
use proto::pb::envoy::config::listener::v3::{Filter, Listener, filter};
use proto::pb::envoy::config::route::v3::{RouteConfiguration, ScopedRouteConfiguration};
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier, scoped_routes::ConfigSpecifier,
};
use proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext, common_tls_context,
};
use proto::pb::google::protobuf::Any;
use proto::{Resource, ResourceType};

/// Whoever wants scopes wants all of them.
pub(super) const EVERYTHING: &str = "*";

/// A resource by type and name.
pub(super) type Reference = (ResourceType, String);

/// What the resource refers to. What cannot be read refers to nothing: whoever compiles it will say why.
pub(super) fn references(resource_type: ResourceType, resource: &Resource) -> Vec<Reference> {
    let mut found = Vec::new();
    match resource_type {
        ResourceType::Cluster => {
            if let Ok(cluster) = Cluster::decode(resource.body.clone()) {
                of_cluster(&cluster, &mut found);
            }
        }
        ResourceType::ScopedRoute => {
            if let Ok(scope) = ScopedRouteConfiguration::decode(resource.body.clone()) {
                of_scope(&scope, &mut found);
            }
        }
        ResourceType::Route => {
            if let Ok(table) = RouteConfiguration::decode(resource.body.clone()) {
                of_table(&table, &mut found);
            }
        }
        ResourceType::Listener => {
            if let Ok(listener) = Listener::decode(resource.body.clone()) {
                of_listener(&listener, &mut found);
            }
        }
        _ => {}
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn of_cluster(cluster: &Cluster, found: &mut Vec<Reference>) {
    let is_eds = matches!(
        cluster.cluster_discovery_type,
        Some(cluster::ClusterDiscoveryType::Type(kind)) if kind == cluster::DiscoveryType::Eds as i32
    );
    if let Some(eds) = cluster.eds_cluster_config.as_ref().filter(|_| is_eds)
        && is_ads(eds.eds_config.as_ref())
    {
        let name = if eds.service_name.is_empty() { &cluster.name } else { &eds.service_name };
        found.push((ResourceType::Endpoint, name.clone()));
    }
    of_socket(cluster.transport_socket.as_ref(), found);
    for matched in &cluster.transport_socket_matches {
        of_socket(matched.transport_socket.as_ref(), found);
    }
}

fn of_listener(listener: &Listener, found: &mut Vec<Reference>) {
    for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
        of_socket(chain.transport_socket.as_ref(), found);
        for filter in &chain.filters {
            of_filter(filter, found);
        }
    }
}

fn of_filter(filter: &Filter, found: &mut Vec<Reference>) {
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { return };
    let Some(manager) = unpack::<HttpConnectionManager>(any) else { return };
    match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) if is_ads(rds.config_source.as_ref()) => {
            found.push((ResourceType::Route, rds.route_config_name));
        }
        Some(RouteSpecifier::ScopedRoutes(scoped)) => match &scoped.config_specifier {
            Some(ConfigSpecifier::ScopedRds(scopes)) if is_ads(scopes.scoped_rds_config_source.as_ref()) => {
                found.push((ResourceType::ScopedRoute, EVERYTHING.to_owned()));
            }
            Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
                list.scoped_route_configurations.iter().for_each(|scope| of_scope(scope, found));
            }
            _ => {}
        },
        _ => {}
    }
}

/// Under its own name a table's virtual hosts are asked for, all that there are.
fn of_table(table: &RouteConfiguration, found: &mut Vec<Reference>) {
    if table.vhds.as_ref().is_some_and(|vhds| is_ads(vhds.config_source.as_ref())) {
        found.push((ResourceType::VirtualHost, table.name.clone()));
    }
}

fn of_scope(scope: &ScopedRouteConfiguration, found: &mut Vec<Reference>) {
    if !scope.route_configuration_name.is_empty() {
        found.push((ResourceType::Route, scope.route_configuration_name.clone()));
    }
}

fn of_socket(socket: Option<&TransportSocket>, found: &mut Vec<Reference>) {
    use proto::pb::envoy::config::core::v3::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = socket.and_then(|socket| socket.config_type.as_ref()) else {
        return;
    };
    let upstream = unpack::<UpstreamTlsContext>(any).and_then(|tls| tls.common_tls_context);
    let common =
        upstream.or_else(|| unpack::<DownstreamTlsContext>(any).and_then(|tls| tls.common_tls_context));
    if let Some(common) = common {
        of_tls(&common, found);
    }
}

fn of_tls(common: &CommonTlsContext, found: &mut Vec<Reference>) {
    use common_tls_context::ValidationContextType as V;
    let mut add = |config: &SdsSecretConfig| {
        if is_ads(config.sds_config.as_ref()) {
            found.push((ResourceType::Secret, config.name.clone()));
        }
    };
    common.tls_certificate_sds_secret_configs.iter().for_each(&mut add);
    match &common.validation_context_type {
        Some(V::ValidationContextSdsSecretConfig(config)) => add(config),
        Some(V::CombinedValidationContext(both)) => {
            both.validation_context_sds_secret_config.iter().for_each(&mut add);
        }
        _ => {}
    }
}

fn is_ads(config: Option<&ConfigSource>) -> bool {
    let specifier = config.and_then(|config| config.config_source_specifier.as_ref());
    matches!(
        specifier,
        Some(config_source::ConfigSourceSpecifier::Ads(_) | config_source::ConfigSourceSpecifier::Self_(_))
    )
}

fn unpack<M: prost::Name + Default>(any: &Any) -> Option<M> {
    (any.type_url == M::type_url() || any.type_url.ends_with(&format!("/{}", M::full_name())))
        .then(|| M::decode(any.value.as_slice()).ok())
        .flatten()
}
