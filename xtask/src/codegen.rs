//! `cargo xtask codegen proto`: compiles the .proto files that `envoy-types` ships, and our own of Istio's, into the
//! compact tables that `proto::json` walks. Does not generate any Rust.
//!
//! Layout of the file, little endian: the magic `MZJ1`; five counts (messages, fields, enums, values, bytes of strings);
//! then the records of each, then the strings. A message's fields are sorted by number, messages and enums by name.
//! `crates/proto/src/json/tables.rs` reads it and says what each record holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

const OUTPUT: &str = "crates/proto/src/json/tables.bin";
const OURS: &str = "crates/proto/proto";

/// Packages whose messages are kept (a name, or a prefix that ends in a dot), with whatever they refer to.
const PACKAGES: &[&str] = &[
    "envoy.admin.v3",
    "envoy.config.accesslog.",
    "envoy.config.bootstrap.",
    "envoy.config.cluster.",
    "envoy.config.common.",
    "envoy.config.core.",
    "envoy.config.endpoint.",
    "envoy.config.listener.",
    "envoy.config.metrics.",
    "envoy.config.overload.",
    "envoy.config.ratelimit.",
    "envoy.config.rbac.",
    "envoy.config.route.",
    "envoy.config.trace.",
    "envoy.extensions.access_loggers.file.",
    "envoy.extensions.access_loggers.filters.",
    "envoy.extensions.access_loggers.grpc.",
    "envoy.extensions.access_loggers.open_telemetry.",
    "envoy.extensions.access_loggers.stream.",
    "envoy.extensions.clusters.aggregate.",
    "envoy.extensions.clusters.common.",
    "envoy.extensions.clusters.dns.",
    "envoy.extensions.clusters.dynamic_forward_proxy.",
    "envoy.extensions.clusters.original_dst.",
    "envoy.extensions.common.dynamic_forward_proxy.",
    "envoy.extensions.common.matching.",
    "envoy.extensions.common.ratelimit.",
    "envoy.extensions.compression.",
    "envoy.extensions.early_data.",
    "envoy.extensions.filters.common.",
    "envoy.extensions.filters.http.adaptive_concurrency.",
    "envoy.extensions.filters.http.admission_control.",
    "envoy.extensions.filters.http.buffer.",
    "envoy.extensions.filters.http.compressor.",
    "envoy.extensions.filters.http.connect_grpc_bridge.",
    "envoy.extensions.filters.http.cors.",
    "envoy.extensions.filters.http.csrf.",
    "envoy.extensions.filters.http.decompressor.",
    "envoy.extensions.filters.http.dynamic_forward_proxy.",
    "envoy.extensions.filters.http.ext_authz.",
    "envoy.extensions.filters.http.ext_proc.",
    "envoy.extensions.filters.http.fault.",
    "envoy.extensions.filters.http.grpc_http1_bridge.",
    "envoy.extensions.filters.http.grpc_stats.",
    "envoy.extensions.filters.http.grpc_web.",
    "envoy.extensions.filters.http.header_mutation.",
    "envoy.extensions.filters.http.header_to_metadata.",
    "envoy.extensions.filters.http.health_check.",
    "envoy.extensions.filters.http.jwt_authn.",
    "envoy.extensions.filters.http.local_ratelimit.",
    "envoy.extensions.filters.http.lua.",
    "envoy.extensions.filters.http.on_demand.",
    "envoy.extensions.filters.http.original_src.",
    "envoy.extensions.filters.http.peak_ewma.",
    "envoy.extensions.filters.http.ratelimit.",
    "envoy.extensions.filters.http.rbac.",
    "envoy.extensions.filters.http.router.",
    "envoy.extensions.filters.http.set_filter_state.",
    "envoy.extensions.filters.http.set_metadata.",
    "envoy.extensions.filters.http.stateful_session.",
    "envoy.extensions.filters.http.upstream_codec.",
    "envoy.extensions.filters.http.wasm.",
    "envoy.extensions.filters.listener.",
    "envoy.extensions.filters.network.connection_limit.",
    "envoy.extensions.filters.network.direct_response.",
    "envoy.extensions.filters.network.echo.",
    "envoy.extensions.filters.network.ext_authz.",
    "envoy.extensions.filters.network.http_connection_manager.",
    "envoy.extensions.filters.network.local_ratelimit.",
    "envoy.extensions.filters.network.ratelimit.",
    "envoy.extensions.filters.network.rbac.",
    "envoy.extensions.filters.network.set_filter_state.",
    "envoy.extensions.filters.network.sni_cluster.",
    "envoy.extensions.filters.network.sni_dynamic_forward_proxy.",
    "envoy.extensions.filters.network.tcp_proxy.",
    "envoy.extensions.formatter.",
    "envoy.extensions.health_check.",
    "envoy.extensions.http.header_formatters.",
    "envoy.extensions.http.original_ip_detection.",
    "envoy.extensions.http.stateful_session.",
    "envoy.extensions.internal_redirect.",
    "envoy.extensions.load_balancing_policies.",
    "envoy.extensions.local_address_selectors.",
    "envoy.extensions.matching.",
    "envoy.extensions.network.dns_resolver.",
    "envoy.extensions.path.",
    "envoy.extensions.rbac.",
    "envoy.extensions.regex_engines.",
    "envoy.extensions.request_id.",
    "envoy.extensions.resource_monitors.",
    "envoy.extensions.retry.",
    "envoy.extensions.stat_sinks.",
    "envoy.extensions.tracers.opentelemetry.",
    "envoy.extensions.transport_sockets.http_11_proxy.",
    "envoy.extensions.transport_sockets.internal_upstream.",
    "envoy.extensions.transport_sockets.proxy_protocol.",
    "envoy.extensions.transport_sockets.raw_buffer.",
    "envoy.extensions.transport_sockets.tls.",
    "envoy.extensions.upstreams.",
    "envoy.extensions.wasm.",
    "envoy.data.accesslog.",
    "envoy.service.accesslog.",
    "envoy.service.auth.",
    "envoy.service.discovery.",
    "envoy.service.ext_proc.",
    "envoy.service.ratelimit.",
    "envoy.service.status.",
    "envoy.tcp.metadataexchange.",
    "envoy.type.",
    "google.protobuf",
    "google.rpc",
    "io.istio.",
    "istio.",
    "stats",
    "udpa.type.",
    "xds.core.",
    "xds.type.",
];

/// Writes the tables, or with `check` only says whether the committed ones are what would be written.
pub(crate) fn proto(root: &Path, check: bool) -> Result<()> {
    let tables = Tables::from_files(&compile(root)?)?.encode()?;
    let output = root.join(OUTPUT);
    if check {
        if std::fs::read(&output).ok().as_deref() != Some(tables.as_slice()) {
            bail!(
                "{OUTPUT} is not what its sources give: run `cargo xtask codegen proto` and commit the file"
            );
        }
        return Ok(());
    }
    std::fs::write(&output, &tables).with_context(|| format!("writing {}", output.display()))?;
    println!("{OUTPUT}: {} bytes", tables.len());
    Ok(())
}

fn compile(root: &Path) -> Result<FileDescriptorSet> {
    let shipped = envoy_types(root)?.join("proto");
    let ours = root.join(OURS);
    let mut includes = vec![ours.clone()];
    for entry in std::fs::read_dir(&shipped).with_context(|| format!("reading {}", shipped.display()))? {
        includes.push(entry?.path());
    }
    // cel-spec nests its packages one folder deeper.
    includes.push(shipped.join("cel-spec/proto"));
    let mut files = Vec::new();
    for top in ["data-plane-api", "xds", "googleapis/google/rpc"] {
        proto_files(&shipped.join(top), &mut files)?;
    }
    proto_files(&ours, &mut files)?;
    files.sort();
    files.retain(|file| is_wanted_file(file));
    let mut resolver = ChainFileResolver::new();
    for include in includes {
        resolver.add(Qualified(IncludeFileResolver::new(include)));
    }
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(false);
    for well_known in ["any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers"] {
        compiler.open_file(format!("google/protobuf/{well_known}.proto"))?;
    }
    compiler.open_files(&files)?;
    Ok(compiler.file_descriptor_set())
}

/// Spells out names that the compiler takes for others: it looks names up in all packages read so far, where protoc
/// looks in imported ones only, and `clusters.common` hides `common`.
struct Qualified(IncludeFileResolver);

impl FileResolver for Qualified {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        self.0.resolve_path(path)
    }

    fn open_file(&self, name: &str) -> std::result::Result<File, protox::Error> {
        let file = self.0.open_file(name)?;
        let mut source = file.source().unwrap_or_default().to_owned();
        for short in ["common.dynamic_forward_proxy.v3.", "common.ratelimit.v3."] {
            source = source.replace(&format!(" {short}"), &format!(" .envoy.extensions.{short}"));
        }
        if file.source() == Some(&source) { Ok(file) } else { File::from_source(name, &source) }
    }
}

/// Skips what is not asked for before it is compiled; the packages decide afterwards.
fn is_wanted_file(file: &Path) -> bool {
    let path = file.to_string_lossy();
    let Some(at) = path.find("/envoy/") else { return true };
    let dotted = path[at + 1..].replace('/', ".");
    PACKAGES.iter().any(|package| dotted.starts_with(package))
}

fn proto_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Where cargo keeps the sources of `envoy-types`.
fn envoy_types(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let package = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|p| p["name"] == "envoy-types"))
        .context("envoy-types is not among the workspace's dependencies")?;
    let manifest = package["manifest_path"].as_str().context("envoy-types has no manifest path")?;
    Ok(Path::new(manifest).parent().context("a manifest without a folder")?.to_owned())
}

#[derive(Default)]
struct Tables {
    messages: BTreeMap<String, Message>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

struct Message {
    descriptor: DescriptorProto,
    proto3: bool,
}

impl Tables {
    fn from_files(set: &FileDescriptorSet) -> Result<Self> {
        let mut all = Self::default();
        let mut wanted = Vec::new();
        for file in &set.file {
            let package = file.package();
            let proto3 = file.syntax() == "proto3";
            for message in &file.message_type {
                all.add_message(package, message, proto3);
            }
            for enumeration in &file.enum_type {
                all.enums.insert(format!("{package}.{}", enumeration.name()), enumeration.clone());
            }
            let dotted = format!("{package}.");
            let is_descriptor = file.name() == "google/protobuf/descriptor.proto";
            if !is_descriptor
                && PACKAGES.iter().any(|p| package == *p || p.ends_with('.') && dotted.starts_with(p))
            {
                wanted.extend(file.message_type.iter().map(|m| format!("{package}.{}", m.name())));
            }
        }
        all.reachable(wanted)
    }

    fn add_message(&mut self, scope: &str, descriptor: &DescriptorProto, proto3: bool) {
        let name = format!("{scope}.{}", descriptor.name());
        for nested in &descriptor.nested_type {
            self.add_message(&name, nested, proto3);
        }
        for enumeration in &descriptor.enum_type {
            self.enums.insert(format!("{name}.{}", enumeration.name()), enumeration.clone());
        }
        self.messages.insert(name, Message { descriptor: descriptor.clone(), proto3 });
    }

    fn reachable(mut self, mut queue: Vec<String>) -> Result<Self> {
        let mut kept = Self::default();
        let mut seen = BTreeSet::new();
        while let Some(name) = queue.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let message = self.messages.remove(&name).with_context(|| format!("{name} is not defined"))?;
            for nested in &message.descriptor.nested_type {
                queue.push(format!("{name}.{}", nested.name()));
            }
            for field in &message.descriptor.field {
                let target = field.type_name().trim_start_matches('.');
                match field.r#type() {
                    Type::Message => queue.push(target.to_owned()),
                    Type::Enum => {
                        if let Some(enumeration) = self.enums.remove(target) {
                            kept.enums.insert(target.to_owned(), enumeration);
                        } else if !kept.enums.contains_key(target) {
                            bail!("{name}.{}: enum {target} is not defined", field.name());
                        }
                    }
                    Type::Group => bail!("{name}.{}: groups are not supported", field.name()),
                    _ => {}
                }
            }
            kept.messages.insert(name, message);
        }
        Ok(kept)
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let message_index: HashMap<&str, u16> = indexes(self.messages.keys())?;
        let enum_index: HashMap<&str, u16> = indexes(self.enums.keys())?;
        let mut out = Encoder::default();
        for (name, message) in &self.messages {
            let mut fields: Vec<_> = message.descriptor.field.iter().collect();
            fields.sort_by_key(|field| field.number());
            let name = out.string(name)?;
            let map_entry = message.descriptor.options.as_ref().is_some_and(|o| o.map_entry());
            out.messages.extend(name.0.to_le_bytes());
            out.messages.extend(name.1.to_le_bytes());
            out.messages.extend(u16::try_from(fields.len())?.to_le_bytes());
            out.messages.extend(out.field_count.to_le_bytes());
            out.messages.extend(u32::from(map_entry).to_le_bytes());
            for field in fields {
                let target = field.type_name().trim_start_matches('.');
                let target = match field.r#type() {
                    Type::Message => message_index[target],
                    Type::Enum => enum_index[target],
                    _ => u16::MAX,
                };
                out.field(field, target, message.proto3)?;
            }
        }
        for (name, enumeration) in &self.enums {
            out.enumeration(name, enumeration)?;
        }
        out.finish(self.messages.len(), self.enums.len())
    }
}

fn indexes<'a>(names: impl Iterator<Item = &'a String>) -> Result<HashMap<&'a str, u16>> {
    names.enumerate().map(|(i, name)| Ok((name.as_str(), u16::try_from(i)?))).collect()
}

#[derive(Default)]
struct Encoder {
    messages: Vec<u8>,
    fields: Vec<u8>,
    field_count: u32,
    enums: Vec<u8>,
    values: Vec<u8>,
    value_count: u32,
    strings: Vec<u8>,
    interned: HashMap<String, u32>,
}

impl Encoder {
    fn string(&mut self, text: &str) -> Result<(u32, u16)> {
        let len = u16::try_from(text.len())?;
        if let Some(&at) = self.interned.get(text) {
            return Ok((at, len));
        }
        let at = u32::try_from(self.strings.len())?;
        self.strings.extend(text.as_bytes());
        self.interned.insert(text.to_owned(), at);
        Ok((at, len))
    }

    fn field(&mut self, field: &FieldDescriptorProto, target: u16, proto3: bool) -> Result<()> {
        let name = self.string(field.name())?;
        let json = self.string(field.json_name())?;
        let repeated = field.label() == Label::Repeated;
        let packed = field.options.as_ref().and_then(|o| o.packed).unwrap_or(proto3);
        let presence = !repeated
            && (field.r#type() == Type::Message
                || field.oneof_index.is_some()
                || field.proto3_optional()
                || !proto3);
        // A synthetic oneof holds one optional field: it can never be in conflict.
        let oneof = match field.oneof_index {
            Some(index) if !field.proto3_optional() => u8::try_from(index + 1)?,
            _ => 0,
        };
        self.fields.extend(u32::try_from(field.number())?.to_le_bytes());
        self.fields.extend(name.0.to_le_bytes());
        self.fields.extend(json.0.to_le_bytes());
        self.fields.extend([u8::try_from(name.1)?, u8::try_from(json.1)?]);
        self.fields.extend(target.to_le_bytes());
        self.fields.push(u8::try_from(field.r#type() as i32)?);
        self.fields.push(u8::from(repeated) | u8::from(packed) << 1 | u8::from(presence) << 2);
        self.fields.push(oneof);
        self.fields.push(0);
        self.field_count += 1;
        Ok(())
    }

    fn enumeration(&mut self, name: &str, enumeration: &EnumDescriptorProto) -> Result<()> {
        let name = self.string(name)?;
        self.enums.extend(name.0.to_le_bytes());
        self.enums.extend(name.1.to_le_bytes());
        self.enums.extend(u16::try_from(enumeration.value.len())?.to_le_bytes());
        self.enums.extend(self.value_count.to_le_bytes());
        for value in &enumeration.value {
            let name = self.string(value.name())?;
            self.values.extend(value.number().to_le_bytes());
            self.values.extend(name.0.to_le_bytes());
            self.values.extend(u32::from(name.1).to_le_bytes());
            self.value_count += 1;
        }
        Ok(())
    }

    fn finish(self, messages: usize, enums: usize) -> Result<Vec<u8>> {
        let mut out = b"MZJ1".to_vec();
        for count in
            [messages, self.field_count as usize, enums, self.value_count as usize, self.strings.len()]
        {
            out.extend(u32::try_from(count)?.to_le_bytes());
        }
        for section in [self.messages, self.fields, self.enums, self.values, self.strings] {
            out.extend(section);
        }
        Ok(out)
    }
}
