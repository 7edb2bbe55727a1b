//! Reading MeshConfig: YAML in protobuf's JSON, checked like a resource.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::check;
use crate::error::{FieldError, Path, Validation};
use crate::mesh::{CONFIG_MAP, CONFIG_MAP_KEY, DEFAULT_ROOT_NAMESPACE, MeshConfig};
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

/// Judges the ConfigMap that holds the settings; `None` for any other object.
pub(crate) fn validate_config_map(object: &Value) -> Option<Validation> {
    if !is_config_map(object) {
        return None;
    }
    let text = object["data"][CONFIG_MAP_KEY].as_str().unwrap_or_default();
    let mut found = match load(text) {
        Ok((_, warnings)) => Validation { errors: Vec::new(), warnings },
        Err(errors) => Validation { errors, warnings: Vec::new() },
    };
    let root = Path::root("data").field(CONFIG_MAP_KEY);
    for error in &mut found.errors {
        error.path = match error.path.as_str() {
            "" | CONFIG_MAP_KEY => root.to_string(),
            below => root.field(below).to_string(),
        };
    }
    for warning in &mut found.warnings {
        *warning = format!("{}", root.field(warning));
    }
    Some(found)
}

/// Whether an object is the ConfigMap that holds the settings.
pub(crate) fn is_config_map(object: &Value) -> bool {
    let metadata = &object["metadata"];
    object["apiVersion"] == "v1"
        && object["kind"] == "ConfigMap"
        && metadata["name"] == CONFIG_MAP
        && metadata["namespace"] == DEFAULT_ROOT_NAMESPACE
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
             - {name: authz, envoyExtAuthzGrpc: {service: authz.default, port: 8000}}\n",
        )
        .unwrap();
        assert_eq!(config.trust_domain(), "example.org");
        assert_eq!(config.outbound_mode(), OutboundMode::RegistryOnly);
        assert_eq!(config.provider("z").unwrap().zipkin.as_ref().unwrap().port, 9411);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
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
    fn the_config_map_is_judged_and_others_are_not() {
        let map = |namespace: &str, text: &str| {
            let metadata = json!({"name": "istio", "namespace": namespace});
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"mesh": text}});
            let found = validate_config_map(&object)?;
            Some((found.errors.iter().map(ToString::to_string).collect::<Vec<_>>(), found.warnings))
        };
        assert_eq!(map("default", "connectTimeout: 5"), None);
        assert_eq!(map("istio-system", "connectTimeout: 5s"), Some((vec![], vec![])));
        let (errors, _) = map("istio-system", "connectTimeout: 5").unwrap();
        assert!(errors[0].starts_with("data.mesh.connectTimeout: Invalid value"), "{errors:?}");
        let (errors, _) = map("istio-system", "a: [").unwrap();
        assert!(errors[0].starts_with("data.mesh: Invalid value"), "{errors:?}");
        let (_, warnings) = map("istio-system", "ingressClass: x").unwrap();
        assert!(warnings[0].starts_with("data.mesh.ingressClass: "), "{warnings:?}");
    }

    #[test]
    fn formats_of_logs_and_traces_are_those_that_proxies_take() {
        let provider = |rest: &str| format!("extensionProviders: [{{name: x, {rest}}}]");
        for (text, path, said) in [
            (
                "accessLogFormat: '%RESPONSE_COD%'".into(),
                "accessLogFormat",
                "did you mean \"%RESPONSE_CODE%\"?",
            ),
            (
                "accessLogFormat: '%RESPONSE_CODE%'\naccessLogEncoding: JSON".into(),
                "accessLogFormat",
                "must be a JSON object",
            ),
            (
                "accessLogFormat: '{\"a\": {\"b\": [\"%NOPE%\"]}}'\naccessLogEncoding: JSON".into(),
                "accessLogFormat[a][b][0]",
                "%NOPE% is no operator",
            ),
            (
                provider("envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '100%'}}"),
                "extensionProviders[0].envoyFileAccessLog.logFormat.text",
                "write %% for a percent sign",
            ),
            (
                provider("envoyOtelAls: {service: o, port: 4317, logFormat: {labels: {status: 200}}}"),
                "extensionProviders[0].envoyOtelAls.logFormat.labels[status]",
                "must be text, or made of texts",
            ),
            (
                provider("envoyHttpAls: {service: o, port: 4317, additionalRequestHeadersToLog: ['a b']}"),
                "extensionProviders[0].envoyHttpAls.additionalRequestHeadersToLog[0]",
                "",
            ),
            (
                provider("envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {status: '%REQ%'}}}"),
                "extensionProviders[0].envoyFileAccessLog.logFormat.labels[status]",
                "%REQ% needs an argument",
            ),
            (
                provider("zipkin: {service: z, port: 9411, headers: [{name: 'a b', value: c}]}"),
                "extensionProviders[0].zipkin.headers[0].name",
                "must be a header's name",
            ),
            (
                provider("opentelemetry: {service: o, port: 4318, http: {path: v1/traces}}"),
                "extensionProviders[0].opentelemetry.http.path",
                "must begin with a slash",
            ),
            (
                "defaultConfig: {tracing: {customTags: {a: {formatter: {value: '%NOPE%'}}}}}".into(),
                "defaultConfig.tracing.customTags[a].formatter.value",
                "%NOPE% is no operator",
            ),
            (
                "defaultConfig: {tracing: {zipkin: {address: zipkin}}}".into(),
                "defaultConfig.tracing.zipkin.address",
                "must be HOST:PORT",
            ),
        ] {
            let errors = load(&text).unwrap_err();
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert_eq!(errors[0].path, path, "{text}");
            assert!(errors[0].to_string().contains(said), "{text}: {}", errors[0]);
        }
        assert!(load("accessLogFormat: '%REQ(X-A?:PATH):9% 100%%'").is_ok());
        assert!(
            load("accessLogFormat: '{\"a\": \"%DURATION%\", \"b\": 1}'\naccessLogEncoding: JSON").is_ok()
        );
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
