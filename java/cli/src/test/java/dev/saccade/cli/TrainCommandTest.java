package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.PolicyLoss;
import dev.saccade.Precision;
import dev.saccade.train.Algorithm;
import dev.saccade.train.KlCoefficient.Schedule;
import dev.saccade.train.TrainConfig;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import picocli.CommandLine;
import picocli.CommandLine.ParameterException;

class TrainCommandTest {
  private static TrainConfig config(String options) {
    TrainCommand command = new TrainCommand();
    new CommandLine(command)
        .setCaseInsensitiveEnumValuesAllowed(true)
        .parseArgs(options.isEmpty() ? new String[0] : options.split(" "));
    try {
      return command.config();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Test
  void withoutOptionsItIsTheDemo() {
    assertThat(config("")).isEqualTo(TrainConfig.preset("demo"));
  }

  @Test
  void precisionsBelowF32NeedAGpu() {
    assertThat(config("--precision f32")).isEqualTo(TrainConfig.preset("demo"));
    assertThat(config("--precision tf32 --device cuda").precision()).isEqualTo(Precision.TF32);
    assertThatThrownBy(() -> config("--precision bf16"))
        .isInstanceOf(ParameterException.class)
        .hasMessage("--precision BF16: needs a GPU (--device cuda)");
  }

  @Test
  void everyOptionReachesTheConfiguration() {
    TrainConfig config =
        config(
            "--algo ral --task count+read --preset full --steps 7 --sft-steps 0 --seed 9"
                + " --group-size 16 --prompts 32 --temperature 0.9 --minibatches 4 --epochs 2"
                + " --learning-rate 1e-3 --lr-warmup 11 --max-grad-norm 0.5 --kl-coef 0.04"
                + " --lambda 2 --reference-interval 3 --thinking");

    assertThat(config.algorithm()).isEqualTo(Algorithm.RAL);
    assertThat(config.task()).isEqualTo("count+read");
    assertThat(config.cells()).isEqualTo(3);
    assertThat(config.thinking()).isTrue();
    assertThat(config.sft().steps()).isZero();
    assertThat(config.seed()).isEqualTo(9);
    TrainConfig.Rl rl = config.rl();
    assertThat(rl.steps()).isEqualTo(7);
    assertThat(rl.group()).isEqualTo(16);
    assertThat(rl.prompts()).isEqualTo(32);
    assertThat(rl.temperature()).isEqualTo(0.9);
    assertThat(rl.minibatches()).isEqualTo(4);
    assertThat(rl.epochs()).isEqualTo(2);
    assertThat(rl.kl().coef()).isEqualTo(0.04);
    assertThat(rl.attention().lambda()).isEqualTo(2);
    assertThat(rl.attention().referenceInterval()).isEqualTo(3);
    assertThat(rl.optimizer().learningRate()).isEqualTo(1e-3);
    assertThat(rl.optimizer().warmup()).isEqualTo(11);
    assertThat(rl.optimizer().maxGradNorm()).isEqualTo(0.5);
  }

  @ParameterizedTest
  @ValueSource(strings = {"count", "read", "compare", "sum", "compare+sum"})
  void everyTaskHasItsName(String task) {
    assertThat(config("--task " + task).task()).isEqualTo(task);
  }

  @Test
  void everyScheduleOfTheKlTakesItsOptions() {
    TrainConfig.Rl rl = config("--kl-schedule grpo_d --kl-min 0.01 --kl-max 0.05").rl();
    assertThat(rl.kl().schedule()).isEqualTo(Schedule.GRPO_D);
    assertThat(rl.kl().min()).isEqualTo(0.01);
    assertThat(rl.kl().max()).isEqualTo(0.05);
    assertThat(config("--kl-schedule RISING --kl-max 0.1").rl().kl().max()).isEqualTo(0.1);
    rl = config("--kl-schedule adaptive --kl-coef 0.03 --kl-target 0.2 --kl-horizon 5e3").rl();
    assertThat(rl.kl().schedule()).isEqualTo(Schedule.ADAPTIVE);
    assertThat(rl.kl().coef()).isEqualTo(0.03);
    assertThat(rl.kl().target()).isEqualTo(0.2);
    assertThat(rl.kl().horizon()).isEqualTo(5000);
  }

  @Test
  void stepsAreThoseOfTheWarmUpWhereThereIsNothingElse() {
    TrainConfig config = config("--algo sft --steps 33 --learning-rate 1e-2 --lr-warmup 7");

    assertThat(config.algorithm()).isEqualTo(Algorithm.SFT);
    assertThat(config.sft().steps()).isEqualTo(33);
    assertThat(config.sft().optimizer().learningRate()).isEqualTo(1e-2);
    assertThat(config.sft().optimizer().warmup()).isEqualTo(7);
  }

  @Test
  void whatDoesNotFitIsRejectedByName() {
    assertThatThrownBy(() -> config("--preset huge"))
        .isInstanceOf(ParameterException.class)
        .hasMessage("preset: expected one of demo, full, tiny, got huge");
    assertThatThrownBy(() -> config("--prompts 10"))
        .hasMessageContaining("rl.minibatches: expected a divisor of rl.prompts = 10, got 4");
    assertThatThrownBy(() -> config("--group-size 1"))
        .hasMessageContaining("rl.group: expected 2 or more, got 1");
    assertThatThrownBy(() -> config("--temperature 0"))
        .hasMessageContaining("--temperature: expected a number above 0, got 0.0");
    assertThatThrownBy(() -> config("--kl-coef -1"))
        .hasMessageContaining("--kl-coef: expected 0 or more, got -1.0");
    assertThatThrownBy(() -> config("--lr-warmup -5"))
        .hasMessageContaining("optimizer.warmup: expected 0 or more, got -5");
    assertThatThrownBy(() -> config("--algo sft --group-size 8"))
        .hasMessageContaining("--group-size: has no effect with --algo sft");
    assertThatThrownBy(() -> config("--algo grpo --reference-interval 2"))
        .hasMessageContaining("--reference-interval: has no effect where rl.attention.lambda is 0");
    assertThatThrownBy(() -> config("--set rl.atention.lambda=2"))
        .hasMessageContaining("rl.atention: is not the name of a value; known here: epochs,");
    assertThatThrownBy(() -> config("--set rl.attention.layers=[2]"))
        .hasMessageContaining("rl.attention.layers: expected each -2 to 1, got [2]");
    assertThatThrownBy(() -> config("--set rl.loss.objective=ppo"))
        .hasMessageContaining("rl.loss.objective: expected one of PPO_CLIP, GSPO,")
        .hasMessageContaining("got ppo");
    assertThatThrownBy(() -> config("--set rl.loss.objective="))
        .isInstanceOf(ParameterException.class)
        .hasMessageStartingWith("rl.loss.objective: expected one of PPO_CLIP, GSPO,")
        .hasMessageEndingWith("got nothing");
    assertThatThrownBy(() -> config("--set algorithm="))
        .hasMessageContaining("algorithm: expected one of SFT, GRPO,");
    assertThatThrownBy(() -> config("--set preset="))
        .hasMessage("preset: expected one of demo, full, tiny, got nothing");
    assertThatThrownBy(() -> config("--set task=[count,read]"))
        .hasMessage("task: expected a text, got [\"count\",\"read\"]");
    assertThatThrownBy(() -> config("--set rl.attention.layers=[0,null]"))
        .hasMessage("rl.attention.layers.1: expected an integer, got nothing");
    assertThatThrownBy(() -> config("--preset tiny --set rl.attention.layers=[0,-1]"))
        .hasMessage(
            "rl.attention.layers: expected layers that differ, got [0, -1], which are [0, 0]");
    assertThatThrownBy(() -> config("--set rl.steps=2.5"))
        .hasMessageContaining("rl.steps: expected an integer, got 2.5");
    assertThatThrownBy(() -> config("--algo gkd"))
        .hasMessageContaining("rl.distillation.teacher: expected a run folder or a checkpoint");
    assertThatThrownBy(() -> config("--kl-min 0.1"))
        .hasMessageContaining("--kl-min: has no effect with --kl-schedule constant");
    assertThatThrownBy(() -> config("--kl-schedule grpo_d --kl-coef 0.1"))
        .hasMessageContaining("--kl-coef: has no effect with --kl-schedule grpo_d");
    assertThatThrownBy(() -> config("--kl-schedule rising --kl-horizon 1000"))
        .hasMessageContaining("--kl-horizon: has no effect with --kl-schedule rising");
    assertThatThrownBy(() -> config("--algo sft --kl-schedule rising"))
        .hasMessageContaining("--kl-schedule: has no effect with --algo sft");
    assertThatThrownBy(() -> config("--kl-schedule rising --kl-min 1"))
        .hasMessageContaining("rl.kl.max: expected at least rl.kl.min = 1.0, got 0.04");
    assertThatThrownBy(() -> config("--kl-schedule adaptive --kl-horizon 100"))
        .hasMessageContaining(
            "rl.kl.horizon: expected at least the 128 responses of an optimizer step, got 100.0");
    assertThatThrownBy(() -> config("--preset tiny --task compare"))
        .hasMessageContaining("task \"compare\" needs room for 2 digits, got 1×1 cells");
    assertThatThrownBy(() -> config("--lambda NaN"))
        .hasMessageContaining("--lambda: expected 0 or more, got NaN");
  }

  @ParameterizedTest
  @EnumSource
  void everyRuleIsAPreset(Algorithm rule) {
    TrainConfig config = config("--set rl.distillation.teacher=t --algo " + rule.id());
    assertThat(config.algorithm()).isEqualTo(rule);
    assertThat(TrainConfig.fromJson(config.toJson())).isEqualTo(config);
  }

  @Test
  void rulesDifferWhereTheirPapersDo() {
    assertThat(config("--algo dapo").rl().loss().clipHigh()).isEqualTo(0.28);
    assertThat(config("--algo dapo").rl().rounds()).isEqualTo(4);
    assertThat(config("--algo gspo").rl().loss().objective()).isEqualTo(PolicyLoss.Objective.GSPO);
    assertThat(config("--algo grpo_d").rl().kl().schedule()).isEqualTo(Schedule.GRPO_D);
    assertThat(config("--algo ral").rl().attention().lambda()).isEqualTo(10);
    assertThat(config("--algo grpo --lambda 10").with("algorithm", Algorithm.RAL))
        .isEqualTo(config("--algo ral"));
  }

  @Test
  void aFileLiesOverThePresetAndOptionsOverTheFile(@TempDir Path folder) throws IOException {
    Path file = folder.resolve("run.yaml");
    Files.writeString(
        file,
        """
        preset: tiny
        algorithm: dapo
        seed: 5
        rl:
          steps: 12
          loss: {clipHigh: 3e-1}
          kl: {schedule: rising}
        """);

    TrainConfig config = config("--config " + file + " --seed 6 --kl-max 0.1 --set rl.epochs=2");

    assertThat(config.algorithm()).isEqualTo(Algorithm.DAPO);
    assertThat(config.cells()).isEqualTo(1);
    assertThat(config.seed()).isEqualTo(6);
    assertThat(config.rl().steps()).isEqualTo(12);
    assertThat(config.rl().epochs()).isEqualTo(2);
    assertThat(config.rl().rounds()).isEqualTo(4);
    assertThat(config.rl().loss().clipHigh()).isEqualTo(0.3);
    assertThat(config.rl().kl().max()).isEqualTo(0.1);
    assertThat(config("--config " + file + " --algo gspo").rl().loss())
        .isEqualTo(config("--preset tiny --algo gspo --set rl.loss.clipHigh=0.3").rl().loss());

    Files.writeString(folder.resolve("config.json"), config.toJson());
    assertThat(config("--config " + folder.resolve("config.json"))).isEqualTo(config);

    Files.writeString(file, "algorithm: dapo\nalgorithm: gspo\n");
    assertThatThrownBy(() -> config("--config " + file))
        .hasMessageContaining("run.yaml: line 2: ")
        .hasMessageContaining("algorithm");
    Files.writeString(file, "rl: 3\n");
    assertThatThrownBy(() -> config("--config " + file))
        .hasMessageContaining("rl: expected a mapping, got 3");
    Files.writeString(file, "task:\n");
    assertThatThrownBy(() -> config("--config " + file))
        .isInstanceOf(ParameterException.class)
        .hasMessage("task: expected a text, got nothing");
    Files.writeString(file, "- rl\n");
    assertThatThrownBy(() -> config("--config " + file))
        .hasMessageContaining("expected a mapping of names to values");
  }
}
