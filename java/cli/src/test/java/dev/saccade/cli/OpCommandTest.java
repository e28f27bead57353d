package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.DType;
import dev.saccade.train.io.Safetensors;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class OpCommandTest {
  @TempDir Path folder;

  private static Safetensors golden(String name) throws IOException {
    return Safetensors.open(Cli.golden().resolve(name + ".safetensors"));
  }

  private Path file(String name) {
    return folder.resolve(name + ".safetensors");
  }

  /** A case of one row: two tokens of equal logits. */
  private static Safetensors.Builder twoTokens() {
    return Safetensors.builder()
        .metadata("op", "token_log_probs")
        .metadata("rtol", "1e-6")
        .metadata("atol", "1e-6")
        .metadata("row_atol", "1e-6")
        .add("in.logits", new float[] {3, 3}, 1, 2)
        .add("in.targets", new int[] {1});
  }

  /** The golden case with one tensor replaced. */
  private Path with(String name, String tensor, double[] values) throws IOException {
    Safetensors given = golden(name);
    var builder = Safetensors.builder().metadata(given.metadata());
    given
        .entries()
        .forEach(
            (key, entry) -> {
              if (!key.equals(tensor)) {
                builder.add(key, entry);
              }
            });
    builder.add(tensor, values, given.entry(tensor).shape());
    builder.write(file("changed"));
    return file("changed");
  }

  private void rejected(Cli run, String message) {
    assertThat(run.errors()).containsExactly("saccade op: " + message);
    assertThat(run.out()).isEqualToIgnoringNewLines("1 case: 0 passed, 0 failed, 1 not run");
    assertThat(run.status()).isEqualTo(2);
  }

  // -------------------------------------------------------------------------------- comparison

  @ParameterizedTest
  @CsvSource({
    "group_advantage__ragged_grpo, advantage",
    "group_advantage__ragged_grpo, degenerate",
    "token_log_probs__3x513_float16_t1.0_p0_m0.0, d_logits",
    "token_log_probs__3x1000_float32_t1.0_p0_m0.0, entropy",
    "sampled_kl__k3_plain, kl",
    "policy_loss__ppo, loss",
    "attention_divergence__ral_previous, dk",
    "attention_divergence__ral_previous, p",
    "adamw__step1, v",
    "grad_norm__four_tensors, scale"
  })
  void aWrongExpectationFails(String name, String tensor) throws IOException {
    double[] values = golden(name).entry("out." + tensor).toDoubles();
    int last = values.length - 1;
    values[last] = values[last] * 1.1 + 0.01;

    Cli run = Cli.run("op", with(name, "out." + tensor, values));

    assertThat(run.status()).isEqualTo(1);
    assertThat(run.err()).isEmpty();
    assertThat(run.out()).contains("FAIL").contains("0 passed, 1 failed, 0 not run");
    assertThat(run.out().lines().filter(line -> line.contains(": got ")))
        .singleElement()
        .asString()
        .contains(" " + tensor + " ");
  }

  @Test
  void nanNeverPasses() throws IOException {
    String name = "sampled_kl__k3_plain";
    double[] values = golden(name).entry("out.kl").toDoubles();
    values[100] = Double.NaN;

    Cli run = Cli.run("op", with(name, "out.kl", values));

    assertThat(run.status()).isEqualTo(1);
    assertThat(run.out()).contains("NaN at [100]");
  }

  @Test
  void anExpectationThatTheOperationDoesNotHaveFails() throws IOException {
    twoTokens().add("out.perplexity", new double[] {2}).write(file("a"));

    Cli run = Cli.run("op", file("a"));

    assertThat(run.status()).isEqualTo(1);
    assertThat(run.out()).contains("perplexity").contains("no result of this name");
  }

  @Test
  void anotherShapeFails() throws IOException {
    twoTokens().add("out.log_prob", new double[] {Math.log(0.5)}, 1, 1).write(file("a"));

    Cli run = Cli.run("op", file("a"));

    assertThat(run.status()).isEqualTo(1);
    assertThat(run.out()).contains("expected shape [1, 1], got [1]");
  }

  @Test
  void aCaseWithoutExpectationsIsNeitherPassedNorFailed() throws IOException {
    twoTokens().write(file("a"));

    Cli run = Cli.run("op", file("a"));

    assertThat(run.status()).isZero();
    assertThat(run.out())
        .contains("DONE")
        .contains("1 case: 0 passed, 0 failed, 1 without expectations, 0 not run");
  }

  @Test
  void aFailureOutweighsACaseThatCannotBeRun() throws IOException {
    twoTokens().add("out.log_prob", new double[] {-1}).write(file("a"));
    twoTokens().add("out.log_prob", new double[] {Math.log(0.5)}).write(file("b"));
    Files.writeString(file("c"), "not a case");

    Cli run = Cli.run("op", folder);

    assertThat(run.status()).isEqualTo(1);
    assertThat(run.out())
        .endsWith("3 cases: 1 passed, 1 failed, 1 not run" + System.lineSeparator());
    assertThat(run.errors()).singleElement().asString().contains("c.safetensors");
  }

  // ----------------------------------------------------------------------------------- results

  @Test
  void resultsAreWrittenUnderTheSameNames() throws IOException {
    Path out = folder.resolve("new/results");
    String name = "token_log_probs__3x513_float16_t1.0_p0_m0.0.safetensors";

    Cli run = Cli.run("op", Cli.golden().resolve(name), "--out", out);

    assertThat(run.status()).isZero();
    Safetensors results = Safetensors.open(out.resolve(name));
    assertThat(results.metadata()).containsEntry("op", "token_log_probs");
    assertThat(results.entries().keySet())
        .containsExactly("out.d_logits", "out.entropy", "out.log_prob", "out.lse");
    assertThat(results.entry("out.lse").dtype()).isEqualTo(DType.F32);
    assertThat(results.entry("out.d_logits").dtype()).isEqualTo(DType.F16);
    assertThat(results.entry("out.d_logits").shape()).containsExactly(3, 513);
  }

  @Test
  void allResultsOfAnOperationAreWritten() throws IOException {
    String attention = "attention_divergence__ral_previous.safetensors";
    String policy = "policy_loss__ppo.safetensors";

    Cli run =
        Cli.run(
            "op", "--out=" + folder, Cli.golden().resolve(attention), Cli.golden().resolve(policy));

    assertThat(run.status()).isZero();
    assertThat(Safetensors.open(folder.resolve(attention)).entries().keySet())
        .containsExactly(
            "out.divergence",
            "out.dk",
            "out.dq",
            "out.dscore_sq",
            "out.entropy",
            "out.loss",
            "out.lse",
            "out.mass",
            "out.p");
    assertThat(Safetensors.open(folder.resolve(policy)).entries().keySet())
        .containsExactly("out.d_log_prob", "out.loss", "out.metrics", "out.token_loss");
  }

  @Test
  void resultsDoNotDependOnTheThreads() throws IOException {
    Path one = folder.resolve("1");
    Path three = folder.resolve("3");
    String name = "attention_divergence__bf16_d64.safetensors";
    Cli.run("op", Cli.golden().resolve(name), "--out", one, "--threads", 1);
    Cli.run("op", Cli.golden().resolve(name), "--out", three, "--threads", 3);

    assertThat(one.resolve(name)).hasSameBinaryContentAs(three.resolve(name));
  }

  @Test
  void aCaseIsNeverOverwritten() throws IOException {
    twoTokens().write(file("a"));
    byte[] before = Files.readAllBytes(file("a"));

    Cli run = Cli.run("op", file("a"), "--out", folder);

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.errors())
        .containsExactly(
            "saccade op: --out: the results of " + file("a") + " would overwrite the case");
    assertThat(file("a")).hasBinaryContent(before);
  }

  @Test
  void resultsOfTwoCasesDoNotCollide() throws IOException {
    Files.createDirectory(folder.resolve("b"));
    twoTokens().write(file("a"));
    twoTokens().write(folder.resolve("b/a.safetensors"));

    Cli run = Cli.run("op", file("a"), folder.resolve("b"), "--out", folder.resolve("out"));

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.errors()).singleElement().asString().endsWith("have the same file name");
  }

  // -------------------------------------------------------------------- cases that cannot be run

  @Test
  void aMissingFile() {
    rejected(Cli.run("op", file("a")), file("a") + ": no such file or folder");
  }

  @Test
  void afileThatIsNotACase() throws IOException {
    Files.writeString(file("a"), "junk");

    rejected(
        Cli.run("op", file("a")),
        file("a")
            + ": not a safetensors file: truncated: 4 bytes, the length of the header alone takes"
            + " 8");
  }

  @Test
  void aFolderWithoutCases() {
    Cli run = Cli.run("op", folder);

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.errors())
        .containsExactly("saccade op: " + folder + ": no *.safetensors in this folder");
  }

  @Test
  void anUnknownOperation() throws IOException {
    Safetensors.builder().metadata("op", "softmix").write(file("a"));

    Cli run = Cli.run("op", file("a"));

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.errors())
        .singleElement()
        .asString()
        .startsWith("saccade op: " + file("a") + ": unknown operation \"softmix\"; known: adamw, ");
  }

  @Test
  void noOperation() throws IOException {
    Safetensors.builder().write(file("a"));

    rejected(Cli.run("op", file("a")), file("a") + ": metadata op is missing");
  }

  @Test
  void anUnknownAttribute() throws IOException {
    twoTokens().metadata("attrs", "{\"temprature\": 0.5}").write(file("a"));

    rejected(
        Cli.run("op", file("a")),
        file("a") + ": unknown attribute \"temprature\"; known: ignore_index, temperature");
  }

  @Test
  void anUnknownTensor() throws IOException {
    twoTokens().add("in.mask", new byte[] {1}).write(file("a"));

    rejected(
        Cli.run("op", file("a")),
        file("a")
            + ": unknown tensor in.mask; known: in.d_entropy, in.d_log_prob, in.logits,"
            + " in.targets");
  }

  @Test
  void aMissingTensor() throws IOException {
    Safetensors.builder()
        .metadata("op", "token_log_probs")
        .add("in.logits", new float[] {1, 2}, 1, 2)
        .write(file("a"));

    rejected(Cli.run("op", file("a")), file("a") + ": tensor in.targets is missing");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "{\"temperature\": \"warm\"} -> attribute temperature: expected a number, got \"warm\"",
        "{\"temperature\": true} -> attribute temperature: expected a number, got true",
        "{\"ignore_index\": 0.5} -> attribute ignore_index: expected an integer, got 0.5",
        "[1] -> attrs: expected a JSON object, got [1]",
        "{\"temperature\": 0} -> token_log_probs: temperature: expected"
      })
  void badAttributes(String example) throws IOException {
    String[] parts = example.split(" -> ");
    twoTokens().metadata("attrs", parts[0]).write(file("a"));

    Cli run = Cli.run("op", file("a"));

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.errors())
        .singleElement()
        .asString()
        .startsWith("saccade op: " + file("a") + ": " + parts[1]);
  }

  @Test
  void anAttributeOutsideItsNames() throws IOException {
    Safetensors.builder()
        .metadata("op", "group_advantage")
        .metadata("attrs", "{\"estimator\": \"grpo\"}")
        .add("in.rewards", new float[] {1, 0})
        .add("in.offsets", new int[] {0, 2})
        .write(file("a"));

    rejected(
        Cli.run("op", file("a")),
        file("a")
            + ": attribute estimator: expected one of GRPO, DR_GRPO, RLOO, BATCH_STD,"
            + " REINFORCE_PP_BASELINE, got \"grpo\"");
  }

  @Test
  void attributesThatAreAbsentOrNullTakeTheirDefaults() throws IOException {
    twoTokens()
        .metadata("attrs", "{\"temperature\": null}")
        .add("out.log_prob", new double[] {Math.log(0.5)})
        .write(file("a"));

    assertThat(Cli.run("op", file("a")).status()).isZero();
  }

  @Test
  void aRequiredAttribute() throws IOException {
    Safetensors.builder()
        .metadata("op", "grad_norm")
        .add("in.grad0", new float[] {1})
        .write(file("a"));

    rejected(Cli.run("op", file("a")), file("a") + ": attribute max_norm is missing");
  }

  @Test
  void expectationsWithoutATolerance() throws IOException {
    Safetensors.builder()
        .metadata("op", "token_log_probs")
        .add("in.logits", new float[] {1, 2}, 1, 2)
        .add("in.targets", new int[] {1})
        .add("out.log_prob", new double[] {1})
        .write(file("a"));

    rejected(Cli.run("op", file("a")), file("a") + ": metadata rtol is missing");
  }

  @Test
  void twoReferencesAtOnce() throws IOException {
    Safetensors given = golden("attention_divergence__ral_previous");
    var builder = Safetensors.builder().metadata(given.metadata());
    given.entries().forEach(builder::add);
    builder.add("in.ref_index", new int[57]).write(file("a"));

    rejected(
        Cli.run("op", file("a")),
        file("a")
            + ": expected one reference, in.ref, in.ref_q with in.ref_k, or in.ref_index; got 2");
  }

  @Test
  void debugAddsTheStackTrace() {
    assertThat(Cli.run("op", "--debug", file("a")).err()).contains("\tat ");
    assertThat(Cli.run("--debug", "op", file("a")).err()).contains("\tat ");
  }
}
