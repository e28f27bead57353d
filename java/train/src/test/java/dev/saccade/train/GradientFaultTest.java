package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import dev.saccade.Context;
import dev.saccade.train.io.Safetensors;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GradientFaultTest {
  @TempDir private Path folder;

  private static TrainConfig config(Map<String, ?> values) {
    return TrainConfig.preset("tiny")
        .with(
            Map.of(
                "sft.steps", 12,
                "sft.batch", 16,
                "rl.steps", 12,
                "rl.prompts", 8,
                "evaluationScenes", 16,
                "checkpointInterval", 5))
        .with(values);
  }

  private GradientFaultException fault(RunFolder run, TrainConfig config) {
    return catchThrowableOfType(
        GradientFaultException.class,
        () -> {
          try (Context context = Context.builder().threads(1).build();
              Trainer trainer = Trainer.start(context, run, config)) {
            trainer.train(TrainerTest.QUIET, () -> false);
          }
        });
  }

  private static List<Path> cases(RunFolder run) throws IOException {
    try (Stream<Path> files = Files.list(run.fault())) {
      return files.sorted().toList();
    }
  }

  private static boolean isFinite(Safetensors.Entry entry) {
    return Arrays.stream(entry.toDoubles()).allMatch(Double::isFinite);
  }

  /** A rate so large that weights overflow: at the step after one, or the one after that. */
  @ParameterizedTest
  @CsvSource({"sft, sft.optimizer, 'token_log_probs'", "ral, rl.optimizer, 'attention_divergence'"})
  void itNamesStepUpdateAndTensorAndKeepsTheOperations(String stage, String section, String first)
      throws IOException {
    TrainConfig config = config(Map.of(section + ".learningRate", 3e38, section + ".warmup", 0));
    RunFolder run = RunFolder.create(folder.resolve(stage), config);

    GradientFaultException fault = fault(run, config);

    assertThat(fault)
        .hasMessageMatching(
            stage
                + ", step [0-9]+, update [12]: the gradient of [a-z0-9_.]+ is not finite"
                + " \\(and [0-9]+ others\\); 'saccade op .*fault' runs the operations of this"
                + " update\\..*");
    List<Path> cases = cases(run);
    assertThat(cases.get(0).getFileName()).hasToString("1-" + first + ".safetensors");
    Safetensors gradients = Safetensors.open(cases.get(cases.size() - 1));
    assertThat(gradients.metadata())
        .containsEntry("op", "grad_norm")
        .hasEntrySatisfying(
            "tensors", names -> assertThat(fault).hasMessageContaining(names.split(", ")[0]));
    assertThat(gradients.entries().values()).isNotEmpty().noneMatch(GradientFaultTest::isFinite);
    assertThat(run.last()).doesNotExist();
  }

  /** The state is that of the last checkpoint: nothing of the broken step is in it. */
  @Test
  void theRunStaysAtItsLastCheckpoint() throws IOException {
    TrainConfig config =
        config(Map.of("rl.optimizer.learningRate", 3e38, "rl.optimizer.warmup", 0));
    RunFolder run = RunFolder.create(folder.resolve("run"), config);
    GradientFaultException fault = fault(run, config);

    Safetensors latest = Safetensors.open(run.latest());
    assertThat(latest.entries().values()).allMatch(GradientFaultTest::isFinite);
    assertThat(latest.metadata()).containsEntry("stage", "RL").containsEntry("step", "0");
    try (Context context = Context.builder().threads(1).build();
        Trainer trainer = Trainer.resume(context, run)) {
      assertThatThrownBy(() -> trainer.train(TrainerTest.QUIET, () -> false))
          .isInstanceOf(GradientFaultException.class)
          .hasMessage(fault.getMessage());
    }
  }

  /** Finite numbers whose product is not. */
  @Test
  void theDumpHoldsWhatTheOperationGot() throws IOException {
    TrainConfig config =
        config(Map.of("algorithm", "grpo", "rl.weight", 3e38, "rl.loss.entropy", 3e38));
    RunFolder run = RunFolder.create(folder.resolve("run"), config);

    assertThat(fault(run, config)).hasMessageContaining("grpo, step 1, update 1: ");

    Safetensors loss = Safetensors.open(cases(run).get(0));
    assertThat(loss.metadata()).containsEntry("op", "policy_loss_from_logits");
    assertThat(loss.metadata().get("attrs")).contains("\"entropy_coef\" : 3.0E38");
    assertThat(loss.entries().values()).allMatch(GradientFaultTest::isFinite);
  }
}
