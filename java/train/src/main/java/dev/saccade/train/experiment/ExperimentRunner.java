package dev.saccade.train.experiment;

import dev.saccade.Context;
import dev.saccade.train.Algorithm;
import dev.saccade.train.Evaluator;
import dev.saccade.train.RunFolder;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.Trainer;
import dev.saccade.train.experiment.Archive.Answers;
import dev.saccade.train.experiment.Archive.Result;
import dev.saccade.train.experiment.Experiment.Plan;
import dev.saccade.train.experiment.Experiment.Source;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.report.Report;
import dev.saccade.train.task.TaskMixture;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;

/**
 * Runs what an experiment still lacks, seed by seed, several runs at once where asked to.
 *
 * <pre>
 * results.jsonl       a line for every finished run: the archive
 * runs/NAME/          the folder of each run; may be deleted once it is in the archive
 * results.csv         made anew at the end, like the next two
 * table.md, table.csv
 * figure.svg
 * </pre>
 */
public final class ExperimentRunner {
  private final Experiment experiment;
  private final Path folder;
  private final Archive archive;
  private final Supplier<Context> contexts;
  private final BooleanSupplier stop;
  private final Listener listener;

  private final List<Job> waiting = new ArrayList<>();
  private final Set<Job> running = new HashSet<>();
  private final List<String> failures = new ArrayList<>();

  /** Follows an experiment; called by one thread at a time. */
  public interface Listener {
    /**
     * A run or a warm-up begins or goes on.
     *
     * @param name its folder
     */
    void begins(String name);

    /**
     * A run or a warm-up is at its end.
     *
     * @param finished runs in the archive
     * @param plans runs of the experiment
     */
    void ended(String name, int finished, int plans);

    /** A run or a warm-up has failed; the others go on. */
    void failed(String name, Exception reason);
  }

  /**
   * @param folder holds everything; made if missing
   * @param contexts a new context for each run
   * @param stop whether to stop between two steps
   * @throws IOException if the archive cannot be read
   */
  public ExperimentRunner(
      Experiment experiment,
      Path folder,
      Supplier<Context> contexts,
      BooleanSupplier stop,
      Listener listener)
      throws IOException {
    this.experiment = experiment;
    this.folder = folder;
    this.contexts = contexts;
    this.stop = stop;
    this.listener = listener;
    Files.createDirectories(folder.resolve("runs"));
    archive = new Archive(folder.resolve("results.jsonl"));
  }

  /** A warm-up, or a run where there is a plan. */
  private static final class Job {
    final String name;
    final Source source;
    final Plan plan;
    final List<Job> needs = new ArrayList<>();
    boolean done;
    boolean failed;

    Job(String name, Source source, Plan plan) {
      this.name = name;
      this.source = source;
      this.plan = plan;
    }
  }

  /**
   * Runs until everything is done or {@code stop} says so, then writes tables and figure of what
   * there is.
   *
   * @param atOnce runs at a time
   * @return whether everything is done
   */
  public boolean run(int atOnce) throws IOException, InterruptedException {
    Map<String, Job> sources = new HashMap<>();
    for (Plan plan : experiment.plans()) {
      Result finished = archive.get(plan);
      List<String> asked = experiment.asked(plan);
      if (finished != null && !finished.accuracy().keySet().containsAll(asked)) {
        throw new IllegalArgumentException(
            "evaluate: expected what finished runs in %s were asked, %s, or another --out; got %s"
                .formatted(folder, finished.accuracy().keySet(), asked));
      }
      if (finished == null) {
        Job job = new Job(plan.folder(), null, plan);
        need(job, plan.warmup(), sources);
        if (plan.teacher() != null) {
          need(job, plan.teacher(), sources);
        }
        waiting.add(job);
      }
    }
    List<Thread> workers = new ArrayList<>();
    for (int i = 0; i < Math.min(atOnce, waiting.size()); i++) {
      Thread worker = new Thread(this::work, "experiment-" + i);
      worker.start();
      workers.add(worker);
    }
    for (Thread worker : workers) {
      worker.join();
    }
    ResultTable table = new ResultTable(experiment, archive);
    table.write(folder);
    return finished() == experiment.plans().size();
  }

  /** Runs that failed, with the reasons. */
  public List<String> failures() {
    return List.copyOf(failures);
  }

  private void need(Job job, Source source, Map<String, Job> sources) {
    Job needed = sources.get(source.folder());
    if (needed == null) {
      needed = new Job(source.folder(), source, null);
      sources.put(source.folder(), needed);
      waiting.add(needed);
    }
    job.needs.add(needed);
  }

  private int finished() {
    return (int) experiment.plans().stream().filter(plan -> archive.get(plan) != null).count();
  }

  private void work() {
    for (Job job = next(); job != null; job = next()) {
      boolean done = false;
      Exception reason = null;
      try {
        done = run(job);
      } catch (IOException | RuntimeException e) {
        reason = e;
      } catch (Error e) {
        // Others may wait for this job.
        reason = new IllegalStateException(e);
      }
      synchronized (this) {
        running.remove(job);
        job.done = done;
        job.failed = reason != null;
        if (job.failed) {
          failures.add(job.name + ": " + reason.getMessage());
          listener.failed(job.name, reason);
        } else if (done) {
          listener.ended(job.name, finished(), experiment.plans().size());
        }
        notifyAll();
      }
    }
  }

  /** The first job that waits for nothing; null where there is no more to do. */
  private synchronized Job next() {
    while (!stop.getAsBoolean()) {
      waiting.removeIf(job -> job.needs.stream().anyMatch(needed -> needed.failed));
      for (Job job : waiting) {
        if (job.needs.stream().allMatch(needed -> needed.done)) {
          waiting.remove(job);
          running.add(job);
          listener.begins(job.name);
          return job;
        }
      }
      if (waiting.isEmpty() || running.isEmpty()) {
        return null;
      }
      try {
        wait();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return null;
      }
    }
    return null;
  }

  private Path runFolder(String name) {
    return folder.resolve("runs").resolve(name);
  }

  /** Whether it came to its end. */
  private boolean run(Job job) throws IOException {
    if (job.plan == null) {
      Path own = runFolder(job.name);
      return Files.exists(own.resolve("config.json")) && Files.exists(RunFolder.open(own).last())
          || train(own, job.source.config(), (trainer, seconds) -> {});
    }
    Plan plan = job.plan;
    Path from = RunFolder.open(runFolder(plan.warmup().folder())).last();
    Path taught =
        plan.teacher() == null ? null : RunFolder.open(runFolder(plan.teacher().folder())).last();
    Path own = runFolder(job.name);
    String begins = Experiment.digest(Files.readAllBytes(from));
    boolean done =
        train(
            own,
            plan.beginning(from, taught),
            (trainer, seconds) ->
                archive.add(result(plan, begins, own, trainer.policy(), seconds)));
    if (done) {
      // The largest of its files, and nobody goes on with it.
      Files.deleteIfExists(RunFolder.open(own).latest());
    }
    return done;
  }

  private interface End {
    void of(Trainer trainer, double seconds) throws IOException;
  }

  private static final Trainer.Listener QUIET =
      new Trainer.Listener() {
        @Override
        public void onStep(Trainer.Stage stage, int step, int steps, Map<String, Object> metrics) {}

        @Override
        public void onEvaluation(
            Trainer.Stage stage, int step, boolean endOfStage, Evaluator.Result result) {}
      };

  /** Begins a run, or goes on with it. */
  private boolean train(Path own, TrainConfig config, End end) throws IOException {
    long start = System.nanoTime();
    try (Context context = contexts.get();
        Trainer trainer =
            Files.exists(own.resolve("config.json"))
                ? Trainer.resume(context, RunFolder.open(own))
                : Trainer.start(context, RunFolder.create(own, config), config)) {
      if (!trainer.train(QUIET, stop)) {
        return false;
      }
      end.of(trainer, (System.nanoTime() - start) * 1e-9);
      return true;
    }
  }

  private Result result(Plan plan, String begins, Path own, PolicyModel policy, double seconds)
      throws IOException {
    TrainConfig config = plan.config();
    Map<String, Answers> accuracy = new LinkedHashMap<>();
    for (String task : experiment.asked(plan)) {
      Evaluator.Result answers =
          new Evaluator(config.asking(TaskMixture.parse(task))).evaluate(policy);
      accuracy.put(task, Answers.of(answers.accuracy()));
    }
    TrainConfig.Rl rl = config.rl();
    long steps = (long) rl.steps() * rl.updates();
    List<Map<String, Object>> rows =
        Report.readMetrics(RunFolder.open(own).metrics()).stream()
            .filter(row -> config.algorithm().id().equals(row.get("stage")))
            .toList();
    long rounds = 0;
    for (Map<String, Object> row : rows) {
      rounds += row.get("rounds") instanceof Integer n ? n : 1;
    }
    boolean supervised = config.algorithm() == Algorithm.SFT;
    long batches = supervised ? rl.steps() * (long) rl.epochs() : rounds;
    return new Result(
        plan.key(),
        plan.variant().name(),
        config.seed(),
        System.getProperty("saccade.commit", "unknown"),
        policy.context().device().toString(),
        begins,
        steps,
        batches * rl.prompts() * rl.group(),
        seconds,
        accuracy,
        last(rows));
  }

  /** Means over the last tenth of the steps. */
  private static Map<String, Double> last(List<Map<String, Object>> rows) {
    Map<String, double[]> sums = new LinkedHashMap<>();
    for (Map<String, Object> row :
        rows.subList(rows.size() - (rows.size() + 9) / 10, rows.size())) {
      row.forEach(
          (name, value) -> {
            if (value instanceof Number number && !name.equals("step")) {
              double[] sum = sums.computeIfAbsent(name, any -> new double[2]);
              sum[0] += number.doubleValue();
              sum[1]++;
            }
          });
    }
    Map<String, Double> means = new LinkedHashMap<>();
    sums.forEach((name, sum) -> means.put(name, sum[0] / sum[1]));
    return means;
  }
}
