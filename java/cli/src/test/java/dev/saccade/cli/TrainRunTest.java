package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code saccade train} as a process of its own, which can be killed. */
class TrainRunTest {
  @TempDir private Path folder;

  private Process start(String... options) throws IOException {
    return start(List.of("--enable-native-access=ALL-UNNAMED"), options);
  }

  private Process start(List<String> jvmOptions, String... options) throws IOException {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    command.addAll(jvmOptions);
    command.addAll(
        List.of("-cp", System.getProperty("java.class.path"), Main.class.getName(), "train"));
    command.addAll(List.of(options));
    return new ProcessBuilder(command)
        .redirectErrorStream(true)
        .redirectOutput(folder.resolve("console.txt").toFile())
        .start();
  }

  private void finish(String... options) throws Exception {
    Process process = start(options);
    assertThat(process.waitFor(3, TimeUnit.MINUTES)).isTrue();
    assertThat(process.exitValue()).as(Files.readString(folder.resolve("console.txt"))).isZero();
  }

  private static List<String> metrics(Path run) throws IOException {
    return Files.readAllLines(run.resolve("metrics.jsonl")).stream()
        .map(line -> line.replaceAll("\"(tokens_per_second|[a-z]+_seconds)\":[^,}]*", ""))
        .toList();
  }

  private String[] newRun(String name) {
    return ("--preset tiny --sft-steps 25 --steps 30 --out " + folder.resolve(name)).split(" ");
  }

  @Test
  @Timeout(value = 5, unit = TimeUnit.MINUTES)
  void aKilledRunResumedGivesTheNumbersOfAWholeOne() throws Exception {
    finish(newRun("whole"));
    Path killed = folder.resolve("killed");

    // Killed in the warm-up, then again in the reinforcement learning.
    Process process = start(newRun("killed"));
    killAfter(process, killed, 12);
    process = start("--resume", killed.toString());
    killAfter(process, killed, 41);
    finish("--resume", killed.toString());

    assertThat(metrics(killed)).isEqualTo(metrics(folder.resolve("whole")));
    assertThat(Files.readAllBytes(killed.resolve("checkpoints/final.safetensors")))
        .isEqualTo(Files.readAllBytes(folder.resolve("whole/checkpoints/final.safetensors")));
    assertThat(Files.readString(killed.resolve("report.html"))).contains("</html>");
  }

  /** A Java without the module that draws stands for a host without fonts. */
  @Test
  @Timeout(value = 3, unit = TimeUnit.MINUTES)
  void aHostThatCannotDrawFinishesWithoutTheReport() throws Exception {
    Path run = folder.resolve("plain");
    Process process =
        start(
            List.of("--limit-modules", "java.logging,java.sql,java.management,jdk.unsupported"),
            "--preset tiny --sft-steps 2 --steps 2 --out %s".formatted(run).split(" "));
    assertThat(process.waitFor(2, TimeUnit.MINUTES)).isTrue();
    String console = Files.readString(folder.resolve("console.txt"));
    assertThat(process.exitValue()).as(console).isZero();
    assertThat(console)
        .containsPattern("saccade train: the report was not drawn: .*fontconfig.*java.awt.Font");
    assertThat(run.resolve("report.html")).doesNotExist();
    assertThat(run.resolve("checkpoints/final.safetensors")).exists();
    assertThat(run.resolve("metrics.jsonl")).isNotEmptyFile();
  }

  /** SIGKILL as soon as the metrics have so many lines. */
  private static void killAfter(Process process, Path run, int lines) throws Exception {
    Path metrics = run.resolve("metrics.jsonl");
    while (process.isAlive() && (!Files.exists(metrics) || count(metrics) < lines)) {
      Thread.sleep(5);
    }
    assertThat(process.isAlive()).as("the run was over before it could be killed").isTrue();
    process.destroyForcibly().waitFor();
    assertThat(process.exitValue()).isEqualTo(128 + 9);
  }

  private static int count(Path metrics) throws IOException {
    return Files.readString(metrics).split("\n").length;
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "--algo gkd --set rl.distillation.teacher=no/run | rl.distillation.teacher: no/run: no such file or folder",
        "--set sft.from=no/run | sft.from: no/run: no such file or folder",
        "--config no/file | --config no/file: no such file or folder",
        "--config . | --config .: expected a file, got a folder",
        "--threads 9999999 | context_create: threads: expected 0 (all) to 1024, got 9999999"
      })
  void aRunThatCannotBeginLeavesNoFolder(String options, String message) {
    Path run = folder.resolve("none");
    Cli train = Cli.run((Object[]) ("train --preset tiny " + options + " --out " + run).split(" "));

    assertThat(train.status()).isEqualTo(2);
    assertThat(train.errors()).singleElement().asString().startsWith("saccade train: " + message);
    assertThat(run).doesNotExist();
  }

  @Test
  void whatAFaultLeavesRunsAgain() {
    Path run = folder.resolve("broken");
    Cli train =
        Cli.run(
            "train",
            "--preset",
            "tiny",
            "--sft-steps",
            "3",
            "--steps",
            "5",
            "--prompts",
            "8",
            "--out",
            run,
            "--set",
            "rl.optimizer.learningRate=3e38",
            "--lr-warmup",
            "0");

    assertThat(train.status()).isEqualTo(2);
    assertThat(train.errors())
        .last()
        .asString()
        .startsWith("saccade train: ral, step ")
        .contains(" is not finite")
        .contains("'saccade op " + run.resolve("fault") + "' runs the operations of this update");
    Cli op = Cli.run("op", run.resolve("fault"));
    assertThat(op.status()).isZero();
    assertThat(op.out())
        .contains("3 cases: 0 passed, 0 failed, 3 without expectations, 0 not run")
        .containsPattern("norm +f32\\[1\\] +1 of 1 not finite");
  }

  @Test
  void evalTellsTheAccuracyOfARunAndOfACheckpoint() throws Exception {
    Path run = folder.resolve("evaluated");
    finish(("--preset tiny --sft-steps 5 --steps 2 --out " + run).split(" "));

    Cli ofRun = Cli.run("eval", run.toString(), "--scenes", "64");
    Cli ofFile =
        Cli.run("eval", run.resolve("checkpoints/sft.safetensors").toString(), "--task", "count");

    assertThat(ofRun.status()).isZero();
    assertThat(ofRun.out()).contains("read, 64 held-out scenes").containsPattern("accuracy +0\\.");
    assertThat(ofFile.status()).isZero();
    assertThat(ofFile.out()).contains("count, 512 held-out scenes");
    assertThat(Cli.run("eval", run.resolve("config.json").toString()).status()).isEqualTo(2);
    Cli unknown = Cli.run("eval", run.toString(), "--task", "read+sum");
    assertThat(unknown.status()).isEqualTo(2);
    assertThat(unknown.errors())
        .containsExactly(
            "saccade eval: "
                + run
                + ": task \"read+sum\": a policy that was trained on \"read\" does not know its"
                + " tokens");
  }
}
