package dev.saccade.train.variance;

import dev.saccade.Context;
import dev.saccade.Tensor;
import dev.saccade.train.Checkpoint;
import dev.saccade.train.Evaluator;
import dev.saccade.train.Successor;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Image;
import dev.saccade.train.task.Reward;
import dev.saccade.train.task.Vocabulary;
import dev.saccade.train.variance.VarianceConfig.Case;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import java.util.stream.IntStream;

/**
 * Measures a checkpoint under every setting of a configuration, block after block. Finished blocks
 * are kept in files whose names are digests of all that they depend on: a study that was stopped
 * goes on, and one with more factors takes what is there.
 */
public final class VarianceStudy {
  private final Context context;
  private final Path checkpoint;
  private final TrainConfig train;
  private final VarianceConfig config;
  private final Path folder;
  private final List<Example> examples;
  private final String digest;

  /**
   * @param context needs a provider of matrix products
   * @param checkpoint of the policy
   * @param folder of results; made where it is not there
   */
  public VarianceStudy(Context context, Path checkpoint, VarianceConfig config, Path folder)
      throws IOException {
    this.context = context;
    this.checkpoint = checkpoint;
    this.config = config;
    this.folder = folder;
    train = Checkpoint.config(Safetensors.open(checkpoint), checkpoint);
    for (int layer : config.layers()) {
      int count = train.model().layers();
      Setting.require(
          layer >= -count && layer < count,
          "layers",
          "each " + -count + " to " + (count - 1),
          config.layers());
    }
    examples = train.scenes().heldOut(config.prompts());
    MessageDigest sha = sha();
    sha.update(Files.readAllBytes(checkpoint));
    if (config.reference() != null) {
      sha.update(Files.readAllBytes(Checkpoint.find(Path.of(config.reference()))));
    }
    digest = HexFormat.of().formatHex(sha.digest(), 0, 8);
  }

  private static MessageDigest sha() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Groups of all settings: steps of the progress. */
  public long groups() {
    return (long) config.cases().size() * config.prompts() * config.groups();
  }

  /** Follows a study. */
  public interface Listener {
    /**
     * @param groups that are done, of {@link VarianceStudy#groups()}
     */
    void done(long groups);
  }

  /**
   * Measures what is missing and writes tables, figures and the page.
   *
   * @param stop asked between blocks
   * @return whether it came to its end; if not, nothing but finished blocks is written
   */
  public boolean run(Listener listener, BooleanSupplier stop) throws IOException {
    Path blocks = Files.createDirectories(folder.resolve("blocks"));
    long[] done = {0};
    List<VarianceResult.Measured> measured = new ArrayList<>();
    VarianceResult.Scene scene = null;
    try (Transformer policy = Checkpoint.loadPolicy(context, checkpoint, train.precision());
        Transformer reference = reference()) {
      for (Case own : config.cases()) {
        String key = key(own.setting());
        List<Path> files =
            IntStream.range(0, config.blocks())
                .mapToObj(b -> blocks.resolve("%s-%03d.safetensors".formatted(key, b)))
                .toList();
        Layout layout = layout(policy, own.setting());
        if (files.stream().allMatch(Files::exists)) {
          done[0] += (long) config.prompts() * config.groups();
          listener.done(done[0]);
        } else if (!measure(policy, reference, own, files, done, listener, stop)) {
          return false;
        }
        List<Block> read = new ArrayList<>();
        for (Path file : files) {
          read.add(Block.read(file));
        }
        List<Analysis.Row> rows =
            new Analysis(read, layout, config.groups(), config.replicates(), config.seed()).run();
        measured.add(new VarianceResult.Measured(own, rows));
        if (scene == null) {
          scene = scene(layout, read.get(0));
        }
      }
      write(measured, scene);
    }
    return true;
  }

  /** The first prompt's image, with the variance of its keys' gradient in the last layer. */
  private VarianceResult.Scene scene(Layout layout, Block block) {
    Image image = examples.get(0).image();
    int perSide = image.side() / train.patch();
    if (config.setting().visualTokens() > 0) {
      return null;
    }
    int last = train.model().layers() - 1;
    Map<String, float[]> variance = new LinkedHashMap<>();
    block.moments.forEach(
        (name, moments) -> {
          float[] values = new float[perSide * perSide];
          for (int r = 0; r < layout.rows().size(); r++) {
            Layout.Row row = layout.rows().get(r);
            if (row.target().equals("k") && row.layer() == last && row.row() < values.length) {
              values[row.row()] = (float) moments.rows()[r];
            }
          }
          variance.put(name, values);
        });
    return new VarianceResult.Scene(image.canvas(), image.side(), perSide, variance);
  }

  private void write(List<VarianceResult.Measured> measured, VarianceResult.Scene scene)
      throws IOException {
    Files.writeString(folder.resolve("config.yaml"), config.toJson() + "\n");
    new VarianceResult(
            "%s, checkpoint %s".formatted(checkpoint, digest),
            config.toJson(),
            (long) config.prompts() * config.groups(),
            measured,
            scene)
        .write(folder);
  }

  private Transformer reference() throws IOException {
    return config.reference() == null
        ? null
        : Checkpoint.loadPolicy(
            context, Checkpoint.find(Path.of(config.reference())), train.precision());
  }

  /** A digest of all that the blocks of a setting depend on. */
  private String key(Setting setting) {
    VarianceConfig own =
        new VarianceConfig(
            config.estimators(),
            config.prompts(),
            config.groups(),
            config.blocks(),
            config.seed(),
            config.layers(),
            config.headBegin(),
            config.headEnd(),
            config.divergence(),
            config.beta(),
            config.advantage(),
            config.reference(),
            config.covariances(),
            1,
            0,
            setting,
            Map.of());
    byte[] text = (digest + own.toJson()).getBytes(StandardCharsets.UTF_8);
    return HexFormat.of().formatHex(sha().digest(text), 0, 8);
  }

  private int responseLength(Setting setting) {
    return setting.responseLength() == 0 ? train.responseLength() : setting.responseLength();
  }

  private List<Prompt> prompts(Setting setting) {
    return examples.stream()
        .map(example -> keep(Evaluator.prompt(example, train.patch()), setting.visualTokens()))
        .toList();
  }

  /** The prompt with some of its patches, evenly spaced. */
  private static Prompt keep(Prompt prompt, int count) {
    if (count == 0 || count >= prompt.patchCount()) {
      return prompt;
    }
    int size = prompt.patches().length / prompt.patchCount();
    float[] kept = new float[count * size];
    for (int i = 0; i < count; i++) {
      int from = (int) ((long) i * prompt.patchCount() / count);
      System.arraycopy(prompt.patches(), from * size, kept, i * size, size);
    }
    return new Prompt(kept, count, prompt.question());
  }

  private Layout layout(Transformer policy, Setting setting) {
    int longest = prompts(setting).stream().mapToInt(Prompt::length).max().orElse(0);
    int response = responseLength(setting);
    return Layout.of(policy.config(), response, longest + response - 1);
  }

  private boolean measure(
      Transformer policy,
      Transformer reference,
      Case own,
      List<Path> files,
      long[] done,
      Listener listener,
      BooleanSupplier stop)
      throws IOException {
    Setting setting = own.setting();
    Transformer measured =
        setting.staleness() == 0
            ? policy
            : Successor.after(policy, train, setting.staleness(), config.seed());
    int[] layers =
        config.layers().stream().mapToInt(l -> Math.floorMod(l, policy.layers())).toArray();
    Reward reward = train.reward();
    try (Laboratory laboratory =
        new Laboratory(
            new Laboratory.Models(measured, policy, reference),
            prompts(setting),
            (prompt, response) -> reward.score(response, examples.get(prompt).truth()).total(),
            setting,
            new AttentionChoice(
                layers,
                config.headBegin(),
                config.headEnd(),
                config.divergence(),
                (float) config.beta(),
                config.advantage()),
            new Laboratory.Sampling(
                config.groups(), config.seed(), responseLength(setting), Vocabulary.END_ANSWER),
            config.estimators(),
            config.covariances())) {
      int per = config.prompts() / config.blocks();
      for (int b = 0; b < files.size(); b++) {
        if (Files.exists(files.get(b))) {
          done[0] += (long) per * config.groups();
          continue;
        }
        if (stop.getAsBoolean()) {
          return false;
        }
        laboratory
            .measure(
                b * per,
                (b + 1) * per,
                config.raw() == 0 ? null : raw(own, laboratory.layout()),
                () -> listener.done(++done[0]))
            .write(files.get(b));
      }
      return true;
    } finally {
      if (measured != policy) {
        measured.close();
      }
    }
  }

  /** Writes samples as {@code --samples} reads them. */
  private Laboratory.Raw raw(Case own, Layout layout) throws IOException {
    String name = own.factor().isEmpty() ? "base" : own.factor() + "-" + own.value();
    Path to = Files.createDirectories(folder.resolve("raw").resolve(name));
    return (String estimator, int prompt, int group, Tensor gradient) -> {
      if (group >= config.raw()) {
        return;
      }
      Safetensors.Builder builder =
          Safetensors.builder()
              .metadata("estimator", estimator)
              .metadata("prompt", "%05d".formatted(prompt))
              .metadata("group", "%05d".formatted(group));
      layout
          .split(gradient.toFloats())
          .forEach(
              (part, values) ->
                  builder.add(
                      "layer%d.head%d.%s".formatted(part.layer(), part.head(), part.target()),
                      values));
      try {
        builder.write(to.resolve("%s-%05d-%05d.safetensors".formatted(estimator, prompt, group)));
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    };
  }
}
