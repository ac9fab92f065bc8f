//! A fault of the GPU in mid-flight, as clients and the operator see it. The product has no hook for it: the server is given
//! a kernel library that passes everything on to the real one until a file appears, and then an address that is no memory.
//!
//! Without a GPU the test says so and is skipped; with `PAGEWISE_REQUIRE_CUDA=1` it fails instead.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use backend_cuda::{CudaBackend, CudaConfig};
use inference_proto::v1::generate_request::Input;
use inference_proto::v1::inference_client::InferenceClient;
use inference_proto::v1::{GenerateRequest, GenerateResponse, SamplingParams};
use kernels_sys::PwSample;
use support::{Server, demo_model};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// More than there is to do after a fault: the server looks for one every second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every entry point, as the generated table looks it up.
fn entry_points() -> Vec<&'static str> {
    let generated = include_str!("../../kernels-sys/src/generated/kernels.rs");
    generated.split("b\"").skip(1).filter_map(|rest| rest.split_once("\\0\"")).map(|(name, _)| name).collect()
}

/// A library that jumps to the real one. Once `switch` exists, samples are taken from an address that is no memory.
fn faulty_kernels(folder: &Path, real: &Path, switch: &Path) -> PathBuf {
    let mut source = format!(
        r#"#include <dlfcn.h>
#include <string.h>
#include <unistd.h>
#define PASS_ON(name) \
  __attribute__((visibility("hidden"))) void *real_##name; \
  __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ": jmp *real_" #name "(%rip)\n");
__attribute__((visibility("hidden"))) int (*real_pw_sample)(const void *, void *);
int pw_sample(const void *op, void *stream) {{
  char faulty[{bytes}];
  if (access("{switch}", F_OK) != 0) return real_pw_sample(op, stream);
  memcpy(faulty, op, sizeof faulty);
  void *nowhere = (void *)256;
  memcpy(faulty, &nowhere, sizeof nowhere); /* `logits` comes first */
  return real_pw_sample(faulty, stream);
}}
"#,
        bytes = size_of::<PwSample>(),
        switch = switch.display(),
    );
    let all = entry_points();
    assert_eq!(std::mem::offset_of!(PwSample, logits), 0);
    for name in all.iter().filter(|name| **name != "pw_sample") {
        source += &format!("PASS_ON({name})\n");
    }
    source += &format!(
        "__attribute__((constructor)) static void find(void) {{\n  void *real = dlopen(\"{}\", RTLD_NOW);\n",
        real.display()
    );
    for name in &all {
        source += &format!("  *(void **)&real_{name} = dlsym(real, \"{name}\");\n");
    }
    source += "}\n";
    let (from, to) = (folder.join("faulty.c"), folder.join("libfaulty.so"));
    fs::write(&from, source).expect("written");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&to).arg(&from).arg("-ldl").status();
    assert!(status.expect("there is a C compiler").success());
    to
}

/// A library that passes everything on loads as what it passes on to. Needs no GPU.
#[test]
fn the_library_that_will_fail_is_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Ok(real) = kernels_sys::find() else {
        println!("skipped: there is no kernel library");
        return;
    };
    let faulty = faulty_kernels(folder.path(), &real, &folder.path().join("switch"));
    kernels_sys::KernelLibrary::load(&faulty).unwrap_or_else(|error| panic!("{error}"));
}

fn has_gpu() -> bool {
    match CudaBackend::open(&CudaConfig::default()) {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("PAGEWISE_REQUIRE_CUDA").is_none_or(|value| value != "1"), "{error:?}");
            println!("skipped: {error}");
            false
        }
    }
}

/// An answer that goes on for long, of which the first message has come.
async fn endless(client: &mut InferenceClient<Channel>, prompt: &str) -> Streaming<GenerateResponse> {
    let sampling = SamplingParams { max_tokens: Some(1000), ignore_eos: Some(true), ..SamplingParams::default() };
    let request = GenerateRequest {
        input: Some(Input::Text(prompt.into())),
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let mut stream = client.generate(request).await.expect("accepted").into_inner();
    assert!(stream.message().await.expect("a message").is_some());
    stream
}

/// The status that a stream ends with.
async fn end(mut stream: Streaming<GenerateResponse>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream just ended"),
            Err(status) => return status,
        }
    }
}

async fn next_status(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    watch.message().await.expect("a status").expect("the watch goes on").status()
}

#[tokio::test]
async fn a_fault_ends_every_stream_with_one_cause_and_the_server_with_an_error() {
    let Some(model) = demo_model() else { return };
    if !has_gpu() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let switch = folder.path().join("switch");
    let faulty = faulty_kernels(folder.path(), &kernels_sys::find().expect("the backend found it"), &switch);
    let kernels: (&str, &OsStr) = (kernels_sys::VARIABLE, faulty.as_os_str());
    let mut server = Server::start(&model, &["--device", "cuda"], &[kernels]);
    let channel = Channel::from_shared(server.address.clone()).expect("an address").connect().await.expect("connects");
    let mut client = InferenceClient::new(channel.clone());
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(channel).watch(request).await.expect("a watch").into_inner();
    assert_eq!(next_status(&mut watch).await, ServingStatus::Serving);

    let mut streams = Vec::new();
    for prompt in ["One", "Two", "Three"] {
        streams.push(endless(&mut client, prompt).await);
    }
    fs::write(&switch, "").expect("written");
    let ends = async {
        let mut ends = Vec::new();
        for stream in streams {
            ends.push(end(stream).await);
        }
        ends
    };
    let ends = tokio::time::timeout(PATIENCE, ends).await.expect("every stream ends");
    println!("every stream ended with {:?}", ends[0]);
    assert_eq!(ends[0].code(), Code::Unavailable, "{:?}", ends[0]);
    assert!(!ends[0].message().is_empty(), "{:?}", ends[0]);
    for other in &ends[1..] {
        assert_eq!((other.code(), other.message()), (ends[0].code(), ends[0].message()));
    }
    let status = tokio::time::timeout(PATIENCE, next_status(&mut watch)).await.expect("health tells");
    assert_eq!(status, ServingStatus::NotServing);
    let exit = tokio::task::spawn_blocking(move || server.process.wait());
    let exit = tokio::time::timeout(PATIENCE, exit).await.expect("it ends").expect("no panic").expect("a status");
    assert_eq!(exit.code(), Some(1));
}
