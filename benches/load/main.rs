//! The load generator's program: flags → workload → run or rate sweep → JSON on stdout and a few lines on stderr. Knows no
//! protocol.

mod args;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::load::{
    Answer, Bisection, Figures, Found, Limits, Meter, Progress, Server, Usage, allow_many_connections, drive,
};
use benches::text::TEXT_IDS;
use benches::workload::{NAMED, Overrides, Plan, TokenSource, Workload};
use clap::Parser;
use tokio::runtime::Builder;

use crate::args::Args;
use crate::report::{Asked, Report, SweepPoint, SweepReport};

/// Warms with other requests than those that are measured.
const WARM_UP_SEED: u64 = 0x5741_524d;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = if args.list { list() } else { run(&args) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whom each named workload stands for.
fn list() -> Result<()> {
    for (name, _) in NAMED {
        println!("{name:<14} {}", Workload::find(name)?.stands_for);
    }
    Ok(())
}

fn run(args: &Args) -> Result<()> {
    allow_many_connections();
    let mut builder = if args.threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime =
        builder.worker_threads(args.threads).enable_all().build().context("cannot start the async runtime")?;
    runtime.block_on(async {
        let workload = Workload::find(&args.workload)?.with(&args.overrides())?;
        let session = Session::begin(args, workload).await?;
        match &args.rate_sweep {
            Some(ends) => session.sweep(ends[0], ends[1]).await,
            None => session.measure().await,
        }
    })
}

/// A server, and what it is to be asked.
struct Session<'a> {
    args: &'a Args,
    workload: Workload,
    tokens: TokenSource<'static>,
    server: Arc<Server>,
}

impl<'a> Session<'a> {
    /// Connects and warms the server up.
    async fn begin(args: &'a Args, workload: Workload) -> Result<Self> {
        let patience = Duration::from_secs_f64(args.wait_s);
        let server = Server::connect(args.protocol, &args.connect, args.connections, patience).await?;
        let tokens = match args.token_ids_below {
            Some(bound) => TokenSource::Below(bound),
            None => TokenSource::Text(&TEXT_IDS),
        };
        let session = Self { args, workload, tokens, server: Arc::new(server) };
        if args.warmup > 0 {
            let warm = Overrides {
                num_requests: Some(args.warmup),
                seed: Some(session.workload.seed ^ WARM_UP_SEED),
                ..Overrides::default()
            };
            let workload = session.workload.clone().with(&warm)?;
            session.ask(&workload, session.plan(&workload)?).await;
        }
        Ok(session)
    }

    /// All requests; they must be such as the model can read.
    fn plan(&self, workload: &Workload) -> Result<Plan> {
        let plan = workload.plan(&self.tokens)?;
        if let Some(vocab_size) = self.server.about().vocab_size {
            let max = plan.max_token_id();
            ensure!(
                max < vocab_size,
                "the prompts hold the token id {max}, and the model has only {vocab_size}: draw them with \
                 --token-ids-below {vocab_size}"
            );
        }
        Ok(plan)
    }

    /// Asks everything, with a line in the terminal meanwhile.
    async fn ask(&self, workload: &Workload, plan: Plan) -> (Vec<Answer>, Usage) {
        let progress = Arc::new(Progress::new(plan.num_requests()));
        let limits = Limits {
            request: Duration::from_secs_f64(self.args.request_timeout_s),
            run: workload.duration_s.map(Duration::from_secs_f64),
        };
        let meter = Meter::begin();
        let answers = tokio::select! {
            answers = drive(&self.server, plan, &workload.arrivals, limits, &progress) => answers,
            never = progress.show() => match never {},
        };
        (answers, meter.read())
    }

    /// One run.
    async fn measure(&self) -> Result<()> {
        let report = self.report(&self.workload).await?;
        eprint!("{}", report.summary());
        println!("{}", serde_json::to_string_pretty(&report)?);
        let failed = report.figures.requests.failed;
        ensure!(!self.args.fail_on_error || failed == 0, "{failed} requests failed");
        Ok(())
    }

    async fn report(&self, workload: &Workload) -> Result<Report> {
        let plan = self.plan(workload)?;
        let asked = Asked {
            name: self.args.workload.clone(),
            requests: plan.num_requests(),
            requests_sha256: plan.digest(),
            workload: workload.clone(),
        };
        let tenants = plan.tenants.clone();
        let (answers, usage) = self.ask(workload, plan).await;
        let figures = Figures::of(&answers, &tenants, self.args.slo());
        Ok(Report::new(asked, self.server.about().clone(), figures, usage, self.args))
    }

    /// Looks for the highest rate at which enough requests are answered within the SLO.
    async fn sweep(&self, low: f64, high: f64) -> Result<()> {
        let mut bisection = Bisection::new(low, high, self.args.sweep_precision);
        let mut points = Vec::new();
        while let Some(rate_per_s) = bisection.next() {
            // Another seed each time: nothing that the server has cached may help it.
            let seed = self.workload.seed.wrapping_add(points.len() as u64);
            let overrides = Overrides { rate_per_s: Some(rate_per_s), seed: Some(seed), ..Overrides::default() };
            let report = self.report(&self.workload.clone().with(&overrides)?).await?;
            let goodput = report.figures.goodput.context("a sweep needs an SLO")?;
            let is_borne = goodput.share >= self.args.slo_share;
            eprintln!(
                "{rate_per_s:>9.2} requests/s: {:.1} % within the SLO, {}",
                100.0 * goodput.share,
                if is_borne { "borne" } else { "too much" }
            );
            points.push(SweepPoint { rate_per_s, is_borne, report });
            bisection.tell(is_borne);
        }
        let found = bisection.found().context("the search has ended")?;
        let highest_rate_per_s = match found {
            Found::Nothing => None,
            Found::Rate(rate) | Found::AtLeast(rate) => Some(rate),
        };
        let is_bounded = !matches!(found, Found::AtLeast(_));
        let report = SweepReport { highest_rate_per_s, is_bounded, slo_share: self.args.slo_share, points };
        println!("{}", serde_json::to_string_pretty(&report)?);
        Ok(())
    }
}
