//! Objects: metadata and a typed spec.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{FieldError, Path};
use crate::kind::Kind;
use crate::{networking, security, telemetry};

/// A resource as the mesh knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub kind: Kind,
    /// The `apiVersion` it was written in.
    pub api_version: String,
    pub metadata: ObjectMeta,
    pub spec: Typed,
}

macro_rules! typed {
    ($($kind:ident: $type:ty,)*) => {
        /// The spec of a resource of any kind.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Typed { $($kind(Box<$type>),)* }

        impl Typed {
            pub fn kind(&self) -> Kind {
                match self { $(Typed::$kind(_) => Kind::$kind,)* }
            }

            /// The spec's JSON; defaults are left out.
            pub fn to_json(&self) -> Value {
                let json = match self { $(Typed::$kind(spec) => serde_json::to_value(spec),)* };
                json.unwrap_or_default()
            }
        }

        pub(crate) fn decode(kind: Kind, spec: Value) -> Result<Typed, FieldError> {
            match kind { $(Kind::$kind => read(spec).map(Typed::$kind),)* }
        }

        pub(crate) fn raw_schema(kind: Kind, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
            match kind { $(Kind::$kind => <$type as schemars::JsonSchema>::json_schema(generator),)* }
        }

        $(impl Spec for $type {
            const KIND: Kind = Kind::$kind;

            fn of(typed: &Typed) -> Option<&Self> {
                match typed {
                    Typed::$kind(spec) => Some(spec),
                    _ => None,
                }
            }

            fn typed(&self) -> Typed {
                Typed::$kind(Box::new(self.clone()))
            }
        })*
    };
}

typed! {
    VirtualService: networking::VirtualService,
    DestinationRule: networking::DestinationRule,
    Gateway: networking::Gateway,
    ServiceEntry: networking::ServiceEntry,
    Sidecar: networking::Sidecar,
    WorkloadEntry: networking::WorkloadEntry,
    WorkloadGroup: networking::WorkloadGroup,
    ProxyConfig: networking::ProxyConfig,
    AuthorizationPolicy: security::AuthorizationPolicy,
    PeerAuthentication: security::PeerAuthentication,
    RequestAuthentication: security::RequestAuthentication,
    Telemetry: telemetry::Telemetry,
}

/// A type that is the spec of some kind.
pub trait Spec: Sized {
    const KIND: Kind;

    fn of(typed: &Typed) -> Option<&Self>;

    fn typed(&self) -> Typed;
}

impl Typed {
    /// The spec as its own type.
    pub fn get<T: Spec>(&self) -> Option<&T> {
        T::of(self)
    }
}

impl Object {
    /// Reads an object of one of our kinds, `apiVersion` and `kind` included. Checks its shape, not its sense.
    pub fn from_json(value: &Value) -> Result<Object, Vec<FieldError>> {
        let kind = kind_of(value).map_err(|error| vec![error])?;
        let spec = crate::parse(kind, value)?;
        let metadata = value.get("metadata").cloned().unwrap_or_else(|| Value::Object(Default::default()));
        let metadata = read_at(Path::root("metadata"), metadata).map_err(|error| vec![error])?;
        let api_version = value["apiVersion"].as_str().unwrap_or_default().to_string();
        Ok(Object { kind, api_version, metadata, spec })
    }

    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The spec as its own type.
    pub fn get<T: Spec>(&self) -> Option<&T> {
        self.spec.get()
    }
}

/// The kind that an object says it is.
pub fn kind_of(value: &Value) -> Result<Kind, FieldError> {
    let text = |field: &str| {
        let text = value.get(field).and_then(Value::as_str);
        text.ok_or_else(|| FieldError::required(&Path::root(field), ""))
    };
    let (api_version, name) = (text("apiVersion")?, text("kind")?);
    Kind::of(api_version, name).ok_or_else(|| unknown_kind(api_version, name))
}

fn unknown_kind(api_version: &str, name: &str) -> FieldError {
    let group = api_version.split('/').next().unwrap_or_default();
    let same = |kind: &Kind| kind.info().group == group && kind.name() == name;
    if let Some(kind) = Kind::all().find(same) {
        let versions: Vec<_> = kind.info().versions.iter().map(|v| format!("{group}/{v}")).collect();
        let versions: Vec<_> = versions.iter().map(String::as_str).collect();
        return FieldError::not_supported(&Path::root("apiVersion"), api_version, &versions);
    }
    let names: Vec<_> = Kind::all().map(Kind::name).collect();
    let error = FieldError::not_supported(&Path::root("kind"), name, &names);
    match crate::support::unsupported_kind(name) {
        Some(reason) => error.hint(reason),
        None => error,
    }
}

fn read<T: DeserializeOwned>(spec: Value) -> Result<T, FieldError> {
    read_at(Path::root("spec"), spec)
}

/// Deserializes; the error names the path below `root`.
pub(crate) fn read_at<T: DeserializeOwned>(root: Path, value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below = error.path().to_string();
        let path = if below == "." { root } else { root.field(&below) };
        FieldError::type_invalid(&path, Value::Null, error.inner())
    })
}
