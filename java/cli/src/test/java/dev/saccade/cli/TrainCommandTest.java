package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Device;
import dev.saccade.cli.TrainRequest.Algorithm;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

class TrainCommandTest {
  private static TrainRequest parse(String... args) {
    TrainCommand command = new TrainCommand();
    new CommandLine(command).setCaseInsensitiveEnumValuesAllowed(true).parseArgs(args);
    return command.request();
  }

  @Test
  void whatIsNotGivenIsNull() {
    TrainRequest request = parse();

    assertThat(request)
        .usingRecursiveComparison()
        .ignoringFields("context")
        .isEqualTo(
            new TrainRequest(
                null, null, null, null, null, null, null, null, null, null, null, null, null, null,
                null, null, null, null));
    assertThat(request.context().device).isEqualTo(Device.CPU);
    assertThat(request.context().threads).isZero();
  }

  @Test
  void everyOptionReachesTheRequest() {
    TrainRequest request =
        parse(
            ("--algo grpo --task count+read --preset full --steps 7 --sft-steps 0 --seed 9"
                    + " --out runs/a --device cuda:1 --threads 3 --group-size 16 --prompts 32"
                    + " --temperature 0.9 --minibatches 4 --learning-rate 1e-3 --lr-warmup 10"
                    + " --max-grad-norm 0.5 --kl-coef 0.04 --lambda 2")
                .split(" "));

    assertThat(request.algo()).isEqualTo(Algorithm.GRPO);
    assertThat(request.task()).hasToString("count+read");
    assertThat(request.preset()).isEqualTo("full");
    assertThat(request.steps()).isEqualTo(7);
    assertThat(request.sftSteps()).isZero();
    assertThat(request.seed()).isEqualTo(9);
    assertThat(request.out()).isEqualTo(Path.of("runs/a"));
    assertThat(request.resume()).isNull();
    assertThat(request.context().device).isEqualTo(Device.cuda(1));
    assertThat(request.context().threads).isEqualTo(3);
    assertThat(request.groupSize()).isEqualTo(16);
    assertThat(request.prompts()).isEqualTo(32);
    assertThat(request.temperature()).isEqualTo(0.9);
    assertThat(request.minibatches()).isEqualTo(4);
    assertThat(request.learningRate()).isEqualTo(1e-3);
    assertThat(request.lrWarmup()).isEqualTo(10);
    assertThat(request.maxGradNorm()).isEqualTo(0.5);
    assertThat(request.klCoef()).isEqualTo(0.04);
    assertThat(request.lambda()).isEqualTo(2);
  }

  @Test
  void aResumedRunMayGetMoreStepsAndOtherThreads() {
    TrainRequest request = parse("--resume", ".", "--steps", "500", "--threads", "1");

    assertThat(request.resume()).isEqualTo(Path.of("."));
    assertThat(request.steps()).isEqualTo(500);
  }
}
