package dev.saccade.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.Context;
import dev.saccade.train.Checkpoint;
import dev.saccade.train.ConfigTree;
import dev.saccade.train.MatrixProducts;
import dev.saccade.train.variance.SampleFolder;
import dev.saccade.train.variance.VarianceConfig;
import dev.saccade.train.variance.VarianceStudy;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code saccade variance}: what the noise in attention gradients is made of. */
@Command(
    name = "variance",
    description = {
      "Draws groups of responses to fixed prompts and measures the variance of gradient estimators,"
          + " by layer and head: between and within prompts, by response and row, between"
          + " estimators, against factors such as the group size.",
      "",
      "Writes results.csv, figures/*.svg, report.html and config.yaml, which repeats the study. The"
          + " same command goes on where it was stopped. docs/variance.md says what is measured."
    },
    sortOptions = false,
    parameterListHeading = "%nParameters:%n",
    optionListHeading = "%nOptions:%n",
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade variance runs/my-run",
      "  saccade variance runs/my-run --set factors.group=[2,4,8,16,32,64]",
      "  saccade variance policy.safetensors --config study.yaml --out results/study",
      "  saccade variance --samples gradients/"
    })
final class VarianceCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      arity = "0..1",
      paramLabel = "RUN|CHECKPOINT",
      description = "A run folder, of which the last checkpoint is taken, or a checkpoint file.")
  private Path policy;

  @Option(
      names = "--config",
      paramLabel = "FILE",
      description = "Values of the study, in YAML; config.yaml of a study repeats it.")
  private Path file;

  @Option(
      names = "--set",
      paramLabel = "NAME=VALUE",
      description =
          "A value of the study, such as setting.group=16, estimators=[rloo,ral,rloo+ral] or"
              + " factors.temperature=[0.7,1.0].")
  private Map<String, String> more = new LinkedHashMap<>();

  @Option(
      names = "--samples",
      paramLabel = "DIR",
      description =
          "Gradient samples of any framework in place of a checkpoint: safetensors, a file each;"
              + " names of tensors give layer and head (layer3.head5.q_proj), metadata prompt and"
              + " estimator.")
  private Path samples;

  @Option(
      names = "--out",
      paramLabel = "DIR",
      defaultValue = "runs/variance",
      description = "Folder of results (default: ${DEFAULT-VALUE}).")
  private Path out;

  @Mixin private ContextOptions context;

  @Override
  public Integer call() throws Exception {
    if ((policy == null) == (samples == null)) {
      throw new ParameterException(
          spec.commandLine(), "expected a checkpoint or --samples, and not both");
    }
    VarianceConfig config = config();
    try (Context device = context.open()) {
      MatrixProducts.provideTo(device);
      if (samples != null) {
        analyse(device, config);
      } else if (!measure(device, config)) {
        spec.commandLine().getOut().println("stopped; the same command goes on");
        return 0;
      }
    }
    spec.commandLine().getOut().println(out.resolve("report.html"));
    return 0;
  }

  private VarianceConfig config() throws IOException {
    List<ObjectNode> layers = new ArrayList<>();
    if (file != null) {
      layers.add(ConfigTree.read(file));
    }
    try {
      Map<String, Object> values = new LinkedHashMap<>();
      more.forEach((name, value) -> values.put(name, ConfigTree.value(value)));
      layers.add(ConfigTree.of(values));
      return VarianceConfig.resolve(layers);
    } catch (IllegalArgumentException e) {
      throw new CliException((file == null ? "" : file + ": ") + e.getMessage(), e);
    }
  }

  private void analyse(Context device, VarianceConfig config) throws IOException {
    try {
      SampleFolder folder = new SampleFolder(samples);
      try (Progress progress = Progress.start("samples", 0, folder.samples())) {
        folder.analyse(
            device,
            config.blocks(),
            config.replicates(),
            config.seed(),
            out,
            done -> progress.show(Progress.Sample.of(done)));
      }
    } catch (IllegalArgumentException e) {
      throw new CliException(e.getMessage(), e);
    }
  }

  private boolean measure(Context device, VarianceConfig config) throws IOException {
    if (!Files.exists(policy)) {
      throw new CliException(policy + ": no such run folder or checkpoint");
    }
    VarianceStudy study;
    try {
      study = new VarianceStudy(device, Checkpoint.find(policy), config, out);
    } catch (IllegalArgumentException e) {
      throw new CliException(e.getMessage(), e);
    }
    try (Stopping stopping = new Stopping();
        Progress progress = Progress.start("variance", 0, study.groups())) {
      return study.run(done -> progress.show(Progress.Sample.of(done)), stopping::asked);
    }
  }
}
