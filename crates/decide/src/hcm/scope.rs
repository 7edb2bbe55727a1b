//! Scoped routes: a key that is made of a request's headers says by which table it is routed.

use std::collections::HashMap;
use std::sync::Arc;

use proto::pb::envoy::config::core::v3::{ConfigSource, config_source::ConfigSourceSpecifier};
use proto::pb::envoy::config::route::v3 as route;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use crate::headers::HeaderName;
use crate::plan::{Ids, Plan, RouteTableId};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Request;
use crate::route::{RouteTable, inline_table};

/// The fragments of a scope's key, in their order.
pub(crate) type ScopeKey = Box<[Box<str>]>;

#[derive(Debug, Clone)]
pub struct ScopedRoutes {
    fragments: Vec<Fragment>,
    source: ScopeSource,
}

#[derive(Debug, Clone)]
enum ScopeSource {
    Inline(Arc<HashMap<ScopeKey, ScopeTable>>),
    /// By SRDS: [`Plan::scope`].
    Srds,
}

/// A compiled `ScopedRouteConfiguration`.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) key: ScopeKey,
    pub(crate) table: ScopeTable,
}

#[derive(Debug, Clone)]
pub(crate) enum ScopeTable {
    Rds { id: RouteTableId, name: Arc<str> },
    Inline(Arc<RouteTable>),
}

/// A part of the key, from a header's first value.
#[derive(Debug, Clone)]
struct Fragment {
    header: HeaderName,
    separator: Option<Box<str>>,
    extract: Extract,
}

#[derive(Debug, Clone)]
enum Extract {
    Index(usize),
    /// What follows the key and the separator.
    Element {
        key: Box<str>,
        separator: Box<str>,
    },
}

/// Scopes and their tables come over the aggregated stream only.
fn aggregated(source: &Option<ConfigSource>) -> Taken<()> {
    match source.as_ref().and_then(|s| s.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_)) | None => Ok(()),
        Some(_) => Err(Refusal::new("only ads is supported by this proxy")),
    }
}

impl ScopedRoutes {
    pub(super) fn compile(m: &pb::ScopedRoutes, ids: &mut Ids) -> Taken<Self> {
        use pb::scoped_routes::ConfigSpecifier;
        let builder = m
            .scope_key_builder
            .as_ref()
            .ok_or_else(|| Refusal::new("is missing").under("scopeKeyBuilder"))?;
        if builder.fragments.is_empty() {
            return Err(Refusal::new("is empty").under("fragments").under("scopeKeyBuilder"));
        }
        aggregated(&m.rds_config_source).within("rdsConfigSource")?;
        let source = match &m.config_specifier {
            None => {
                return Err(Refusal::new("says no scopes; write scopedRouteConfigurationsList or scopedRds"));
            }
            Some(ConfigSpecifier::ScopedRds(scoped)) => {
                let source = &scoped.scoped_rds_config_source;
                aggregated(source).within("scopedRdsConfigSource").within("scopedRds")?;
                ScopeSource::Srds
            }
            Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
                let scopes =
                    inline(&list.scoped_route_configurations, ids).within("scopedRouteConfigurationsList")?;
                ScopeSource::Inline(Arc::new(scopes))
            }
        };
        let fragments = each(&builder.fragments, "fragments", Fragment::compile).within("scopeKeyBuilder")?;
        Ok(Self { fragments, source })
    }

    /// The table of a request's scope, if it has one that has arrived.
    pub(crate) fn table(&self, plan: &Plan, request: &Request) -> Option<Arc<RouteTable>> {
        let key: Option<Vec<Box<str>>> = self.fragments.iter().map(|f| f.of(request)).collect();
        let table = match &self.source {
            ScopeSource::Inline(scopes) => scopes.get(&key?[..])?,
            ScopeSource::Srds => plan.scope(&key?)?,
        };
        match table {
            ScopeTable::Inline(table) => Some(Arc::clone(table)),
            ScopeTable::Rds { id, .. } => plan.route_table(*id).cloned(),
        }
    }

    pub(crate) fn is_by_srds(&self) -> bool {
        matches!(self.source, ScopeSource::Srds)
    }

    /// Names of the tables that are to come by RDS.
    pub(crate) fn wanted_tables(&self) -> impl Iterator<Item = Arc<str>> {
        let scopes = match &self.source {
            ScopeSource::Inline(scopes) => Some(scopes),
            ScopeSource::Srds => None,
        };
        scopes.into_iter().flat_map(|scopes| scopes.values().filter_map(ScopeTable::wanted))
    }
}

impl ScopeTable {
    pub(crate) fn wanted(&self) -> Option<Arc<str>> {
        match self {
            Self::Rds { name, .. } => Some(Arc::clone(name)),
            Self::Inline(_) => None,
        }
    }
}

fn inline(list: &[route::ScopedRouteConfiguration], ids: &mut Ids) -> Taken<HashMap<ScopeKey, ScopeTable>> {
    let mut scopes = HashMap::with_capacity(list.len());
    for (message, i) in list.iter().zip(0..) {
        let scope = compile_scope(message, ids).at("scopedRouteConfigurations", i)?;
        if scopes.insert(scope.key, scope.table).is_some() {
            return Err(Refusal::new("is the key of another scope as well")
                .under("key")
                .under(format_args!("scopedRouteConfigurations[{i}]")));
        }
    }
    Ok(scopes)
}

pub(crate) fn compile_scope(m: &route::ScopedRouteConfiguration, ids: &mut Ids) -> Taken<Scope> {
    use route::scoped_route_configuration::key::fragment::Type;
    let key = m.key.as_ref().filter(|key| !key.fragments.is_empty());
    let key = key.ok_or_else(|| Refusal::new("is missing").under("key"))?;
    let fragment = |f: &route::scoped_route_configuration::key::Fragment| match &f.r#type {
        Some(Type::StringKey(text)) => Ok(text.as_str().into()),
        None => Err(Refusal::new("is missing").under("stringKey")),
    };
    let key: Vec<Box<str>> = each(&key.fragments, "fragments", fragment).within("key")?;
    let table =
        match (&m.route_configuration, m.route_configuration_name.as_str()) {
            (None, "") => {
                return Err(Refusal::new("is missing; write it, or routeConfiguration")
                    .under("routeConfigurationName"));
            }
            (None, name) => ScopeTable::Rds { id: ids.table(name), name: name.into() },
            (Some(table), "") => ScopeTable::Inline(inline_table(table, ids).within("routeConfiguration")?),
            (Some(_), _) => {
                return Err(Refusal::new("stands beside routeConfigurationName; write one")
                    .under("routeConfiguration"));
            }
        };
    Ok(Scope { key: key.into(), table })
}

impl Fragment {
    fn compile(m: &pb::scoped_routes::scope_key_builder::FragmentBuilder) -> Taken<Self> {
        use pb::scoped_routes::scope_key_builder::fragment_builder::{
            Type, header_value_extractor::ExtractType,
        };
        let Some(Type::HeaderValueExtractor(extractor)) = &m.r#type else {
            return Err(Refusal::new("is missing").under("headerValueExtractor"));
        };
        let wrong =
            |text: &str, field: &str| Err(Refusal::new(text).under(field).under("headerValueExtractor"));
        if extractor.name.is_empty() {
            return wrong("is empty", "name");
        }
        let separator = Some(extractor.element_separator.as_str()).filter(|s| !s.is_empty());
        let extract = match &extractor.extract_type {
            None => return wrong("is missing; write it, or element", "index"),
            Some(ExtractType::Index(i)) if separator.is_none() && *i > 0 => {
                return wrong("is missing, and there is an index", "elementSeparator");
            }
            Some(ExtractType::Index(i)) => Extract::Index(*i as usize),
            Some(ExtractType::Element(element)) if element.key.is_empty() || element.separator.is_empty() => {
                return wrong("needs key and separator", "element");
            }
            Some(ExtractType::Element(element)) => Extract::Element {
                key: element.key.as_str().into(),
                separator: element.separator.as_str().into(),
            },
        };
        Ok(Self { header: extractor.name.as_str().into(), separator: separator.map(Into::into), extract })
    }

    fn of(&self, request: &Request) -> Option<Box<str>> {
        let first = request.headers.get(&self.header).map(|value| std::borrow::Cow::Borrowed(&value[..]));
        let value = first.or_else(|| request.value(&self.header))?;
        let value = std::str::from_utf8(&value).ok()?;
        let mut elements: Box<dyn Iterator<Item = &str>> = match &self.separator {
            Some(separator) => Box::new(value.split(&**separator)),
            None => Box::new(std::iter::once(value)),
        };
        match &self.extract {
            Extract::Index(index) => elements.nth(*index).map(Into::into),
            Extract::Element { key, separator } => elements.find_map(|element| {
                let (name, value) = element.split_once(&**separator).unwrap_or((element, ""));
                (name == &**key).then(|| value.into())
            }),
        }
    }
}
