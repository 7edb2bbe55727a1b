//! Reading MeshConfig: YAML in protobuf's JSON, checked like a resource.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::check;
use crate::error::{FieldError, Path, Validation};
use crate::mesh::MeshConfig;
use crate::object::read_at;
use crate::{schema, support, validate};

pub(crate) fn load(yaml: &str) -> Result<(MeshConfig, Vec<String>), Vec<FieldError>> {
    let root = Path::root("");
    let mut config = Value::deserialize(serde_yaml_ng::Deserializer::from_str(yaml))
        .map_err(|error| vec![FieldError::invalid(&Path::root("mesh"), "", error)])?;
    if config.is_null() {
        config = json!({});
    }
    check::drop_nulls(&mut config);
    let mut found = Validation::default();
    support::check_mesh_config(&mut config, &mut found);
    if found.is_ok() {
        check::against(schema::mesh_config(), &config, &root, &mut found.errors);
    }
    if !found.is_ok() {
        return Err(found.errors);
    }
    let config = read_at(root, config).map_err(|error| vec![error])?;
    validate::mesh_config(&config, &mut found);
    if found.is_ok() { Ok((config, found.warnings)) } else { Err(found.errors) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::OutboundMode;

    #[test]
    fn what_is_honoured_is_typed_and_the_rest_named() {
        let (config, warnings) = load(
            "trustDomain: example.org\nenableTracing: true\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n\
             ingressClass: istio\nextensionProviders:\n- {name: z, zipkin: {service: zipkin.tracing, port: 9411}}\n\
             - {name: authz, envoyExtAuthzHttp: {service: authz.default, port: 8000}}\n",
        )
        .unwrap();
        assert_eq!(config.trust_domain(), "example.org");
        assert_eq!(config.outbound_mode(), OutboundMode::RegistryOnly);
        assert_eq!(config.provider("z").unwrap().zipkin.as_ref().unwrap().port, 9411);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let errors = |yaml| load(yaml).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            errors("ca: {address: x}"),
            ["ca: Forbidden: ca is not supported: a remote certificate authority is not built yet"]
        );
        assert_eq!(
            errors("trustDomian: x"),
            ["unknown field \"trustDomian\"; did you mean \"trustDomain\"?"]
        );
        assert!(errors("connectTimeout: 5")[0].starts_with("connectTimeout: Invalid value"));
    }

    #[test]
    fn an_empty_one_is_all_defaults() {
        let (config, warnings) = load("").unwrap();
        assert_eq!((config.clone(), warnings.len()), (MeshConfig::default(), 0));
        assert!(config.auto_mtls());
        assert_eq!(config.outbound_mode(), OutboundMode::AllowAny);
        assert_eq!(config.root_namespace(), "istio-system");
    }
}
