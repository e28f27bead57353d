package dev.saccade.train.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.Contexts;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.PolicyModel.AttentionGradient;
import dev.saccade.train.model.PolicyModel.Sampling;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.TreeSet;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TransformerTest {
  /** No size divides another, but heads by key heads: a mixed-up dimension cannot fit. */
  private static final TransformerConfig CONFIG =
      new TransformerConfig(13, 7, 24, 22, 3, 6, 2, 5, 29);

  /** A token that the model never draws. */
  private static final int NEVER = -7;

  /** A model whose norms are not all 1 and whose logits are far enough apart to differ in rank. */
  private static Transformer model(Context context) {
    Transformer model = Transformer.create(context, CONFIG, 5);
    Random random = new Random(17);
    for (Parameter parameter : model.parameters()) {
      float[] values = parameter.value().toFloats();
      for (int i = 0; i < values.length; i++) {
        if (parameter.value().rank() == 1) {
          values[i] += (float) (0.3 * random.nextGaussian());
        } else if (parameter.name().equals("head")) {
          values[i] *= 5;
        }
      }
      parameter.value().copyFrom(values);
    }
    return model;
  }

  private static float[] gaussian(Random random, long n) {
    float[] x = new float[Math.toIntExact(n)];
    for (int i = 0; i < x.length; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return x;
  }

  private static int[] tokens(Random random, int n) {
    return random.ints(n, 0, CONFIG.vocabulary()).toArray();
  }

  private static Prompt prompt(Random random, int patches, int question) {
    return new Prompt(
        gaussian(random, (long) patches * CONFIG.patchSize()), patches, tokens(random, question));
  }

  /** With and without an image, of several lengths; one of a single token. */
  private static List<Prompt> raggedPrompts(Random random) {
    return List.of(
        prompt(random, 9, 3), prompt(random, 0, 6), prompt(random, 1, 1), prompt(random, 0, 1));
  }

  /** Several responses to a prompt, out of order; one token, and a sequence of all positions. */
  private static Batch raggedBatch(Random random) {
    List<Prompt> prompts = raggedPrompts(random);
    int[] promptOf = {0, 2, 0, 3, 1, 3, 1};
    int[] lengths = {5, 1, 13, 1, 4, 7, 2};
    int[][] responses = new int[lengths.length][];
    Arrays.setAll(responses, s -> tokens(random, lengths[s]));
    return Batch.of(prompts, promptOf, responses);
  }

  private static double largest(double[] values) {
    return Arrays.stream(values).map(Math::abs).max().orElse(0);
  }

  private static void assertNear(String what, float[] got, double[][] want, double tolerance) {
    double[] flat = Arrays.stream(want).flatMapToDouble(Arrays::stream).toArray();
    assertThat(got).as(what).hasSize(flat.length);
    double bound = tolerance * largest(flat);
    for (int i = 0; i < flat.length; i++) {
      assertThat((double) got[i]).as("%s[%d]", what, i).isCloseTo(flat[i], within(bound));
    }
  }

  // --------------------------------------------------------------------------------------- forward

  @Test
  void logitsQueriesAndKeysAgreeWithDoublePrecision() {
    Batch batch = raggedBatch(new Random(1));
    try (Context context = Contexts.open(2);
        Transformer model = model(context);
        Scope scope = context.scope()) {
      Activations activations = model.forward(scope, batch, 0, 1, 2);
      ReferenceTransformer.Result want = new ReferenceTransformer(model).forward(batch);
      assertThat(activations.logits().shape()).containsExactly(33, CONFIG.vocabulary());
      assertNear("logits", activations.logits().toFloats(), want.logits(), 3e-6);
      for (int layer = 0; layer < CONFIG.layers(); layer++) {
        AttentionPolicy.Input attention = activations.attention(layer);
        assertThat(attention.q().shape()).containsExactly(33, CONFIG.heads(), CONFIG.headDim());
        assertThat(attention.k().shape())
            .containsExactly(batch.rows(), CONFIG.kvHeads(), CONFIG.headDim());
        assertNear("q", attention.q().toFloats(), want.q()[layer], 3e-6);
        assertNear("k", attention.k().toFloats(), want.k()[layer], 3e-6);
        assertThat(attention.offsetsQ().toInts()).isEqualTo(batch.responseOffsets());
        assertThat(attention.offsetsK().toInts()).isEqualTo(batch.offsets());
        assertThat(attention.maxKeys()).isEqualTo(24);
        assertThat(attention.supportRanges()).isNull();
      }
    }
  }

  /** Inputs on the device serve any number of passes, also of models that were copied. */
  @Test
  void inputsServeManyPasses() {
    Batch batch = raggedBatch(new Random(3));
    try (Context context = Contexts.open(2);
        Transformer model = model(context);
        Transformer copy = model.copy();
        Transformer other =
            Transformer.create(context, new TransformerConfig(13, 7, 24, 11, 1, 2, 2, 5, 9), 1);
        Scope scope = context.scope()) {
      PolicyModel.Inputs inputs = model.prepare(scope, batch);
      float[] want = model.forward(scope, batch).logits().toFloats();
      for (Transformer each : List.of(model, copy, model)) {
        assertThat(each.forward(scope, inputs, 1).logits().toFloats()).isEqualTo(want);
      }
      assertThatThrownBy(() -> other.forward(scope, inputs))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("inputs: expected those of a model of this architecture, got others");
    }
  }

  /** Images that were loaded are not brought again, for prompts that follow each other. */
  @Test
  void loadedImagesServeTheirPrompts() {
    Random random = new Random(23);
    List<Prompt> prompts =
        List.of(
            prompt(random, 8, 2), prompt(random, 3, 1), prompt(random, 0, 2), prompt(random, 5, 3));
    Prompt twin =
        new Prompt(prompts.get(3).patches().clone(), 5, prompts.get(3).question().clone());
    Sampling sampling = new Sampling(1, 4, NEVER, 2, 3);
    List<List<Prompt>> known =
        List.of(prompts, prompts.subList(0, 2), prompts.subList(1, 4), prompts.subList(1, 2));
    List<List<Prompt>> others =
        List.of(
            List.of(prompts.get(1), prompts.get(3)),
            List.of(prompts.get(1), prompts.get(0)),
            List.of(twin),
            prompts.subList(3, 4)); // begins where a matrix may not
    try (Context context = Contexts.open(2);
        Transformer model = model(context);
        Transformer loaded = model.copy()) {
      try (Scope images = context.scope()) {
        loaded.load(images, prompts);
        for (List<Prompt> some : known) {
          assertThat(bytesOf(loaded, some))
              .isEqualTo(bytesOf(model, some) - patchBytes(some))
              .isPositive();
        }
        for (List<Prompt> some : others) {
          assertThat(bytesOf(loaded, some)).isEqualTo(bytesOf(model, some));
        }
        for (List<Prompt> some : List.of(prompts, known.get(2), others.get(0), others.get(2))) {
          assertThat(logits(loaded, some)).isEqualTo(logits(model, some));
          assertThat(loaded.sample(some, 3, sampling))
              .isDeepEqualTo(model.sample(some, 3, sampling));
        }
        loaded.load(images, prompts.subList(2, 3)); // without a patch
        assertThat(logits(loaded, prompts)).isEqualTo(logits(model, prompts));
        loaded.load(images, prompts);
      }
      assertThat(bytesOf(loaded, prompts)).isEqualTo(bytesOf(model, prompts));
      assertThat(logits(loaded, prompts)).isEqualTo(logits(model, prompts));
    }
  }

  private static Batch answered(List<Prompt> prompts) {
    int[][] responses = new int[prompts.size()][];
    Arrays.setAll(responses, s -> new int[] {s % 3, 4});
    return Batch.of(prompts, IntStream.range(0, prompts.size()).toArray(), responses);
  }

  private static float[] logits(Transformer model, List<Prompt> prompts) {
    try (Scope scope = model.context().scope()) {
      return model.forward(scope, answered(prompts)).logits().toFloats();
    }
  }

  /** Memory that the inputs of a pass take. */
  private static long bytesOf(Transformer model, List<Prompt> prompts) {
    long before = model.context().liveBytes();
    try (Scope scope = model.context().scope()) {
      model.prepare(scope, answered(prompts));
      return model.context().liveBytes() - before;
    }
  }

  private static long patchBytes(List<Prompt> prompts) {
    return prompts.stream().mapToLong(p -> (long) Float.BYTES * p.patches().length).sum();
  }

  /** Room beyond the ends of sequences, and response rows of prompts, change no result. */
  @Test
  void paddingChangesNeitherLogitsNorGradients() {
    Batch packed = raggedBatch(new Random(30));
    Batch.Room room = new Batch.Room(1, 12, 13);
    int[] promptOf = IntStream.range(0, packed.sequences()).map(packed::promptOf).toArray();
    int[][] responses =
        IntStream.range(0, packed.sequences()).mapToObj(packed::response).toArray(int[][]::new);
    Batch padded = Batch.padded(packed.prompts(), promptOf, responses, room);
    assertThat(padded.rows()).isEqualTo(7 * 24);
    assertThat(padded.responseRows()).isEqualTo(7 * 24);
    assertThat(padded.longest()).isEqualTo(24);
    assertThat(padded.tokens()).isEqualTo(packed.responseRows()).isEqualTo(packed.tokens());
    assertThat(padded.filledRows()).isEqualTo(packed.rows()).isEqualTo(packed.filledRows());
    int[] targets = padded.targets();
    int[] active =
        IntStream.range(0, targets.length).filter(r -> targets[r] != Batch.IGNORED).toArray();
    assertThat(Arrays.stream(active).map(r -> targets[r])).containsExactly(box(packed.targets()));
    float[] ones = new float[7];
    Arrays.fill(ones, 1);
    float[] isActive = padded.perResponseRow(ones);
    for (int r = 0; r < targets.length; r++) {
      assertThat(isActive[r]).isEqualTo(targets[r] == Batch.IGNORED ? 0 : 1);
    }
    int layer = 1;
    Loss loss = new Loss(new Random(31), packed, layer);
    try (Context context = Contexts.open(2);
        Transformer model = model(context);
        Scope scope = context.scope()) {
      Activations want = model.forward(scope, packed, layer);
      Activations got = model.forward(scope, padded, layer);
      int logits = CONFIG.vocabulary();
      int queries = CONFIG.heads() * CONFIG.headDim();
      assertClose(rows(got.logits().toFloats(), active, logits), want.logits().toFloats());
      assertClose(
          rows(got.attention(layer).q().toFloats(), active, queries),
          want.attention(layer).q().toFloats());

      loss.backward(model, packed);
      List<double[]> expected = gradients(model);
      clearGradients(model);
      int[] filled = filledRows(padded, packed.offsets());
      int keys = CONFIG.kvHeads() * CONFIG.headDim();
      Tensor dLogits =
          Tensor.of(
              scope, spread(loss.ofLogits, active, logits, targets.length), got.logits().shape());
      Tensor dq =
          Tensor.of(
              scope,
              spread(loss.ofQ[0], active, queries, targets.length),
              got.attention(layer).q().shape());
      Tensor dk =
          Tensor.of(
              scope,
              spread(loss.ofK[0], filled, keys, padded.rows()),
              got.attention(layer).k().shape());
      model.backward(got, dLogits, List.of(new AttentionGradient(layer, dq, dk)));
      List<double[]> gradients = gradients(model);
      for (int p = 0; p < expected.size(); p++) {
        double bound = 3e-6 * largest(expected.get(p));
        for (int i = 0; i < expected.get(p).length; i++) {
          assertThat(gradients.get(p)[i])
              .as("%s[%d]", model.parameters().get(p).name(), i)
              .isCloseTo(expected.get(p)[i], within(bound));
        }
      }
    }
    assertThatThrownBy(
            () -> Batch.padded(packed.prompts(), promptOf, responses, new Batch.Room(1, 12, 12)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "responses: expected prompts and responses that fit Room[shortest=1, longest=12,"
                + " response=12], got lengths 12 and 13 at 2");
  }

  private static Integer[] box(int[] values) {
    return Arrays.stream(values).boxed().toArray(Integer[]::new);
  }

  private static void assertClose(float[] got, float[] want) {
    assertThat(got).hasSameSizeAs(want);
    for (int i = 0; i < want.length; i++) {
      assertThat(got[i]).isCloseTo(want[i], within(2e-5f));
    }
  }

  /** Some rows of a matrix. */
  private static float[] rows(float[] matrix, int[] rows, int columns) {
    float[] some = new float[rows.length * columns];
    for (int i = 0; i < rows.length; i++) {
      System.arraycopy(matrix, rows[i] * columns, some, i * columns, columns);
    }
    return some;
  }

  /** A matrix of {@code count} rows that has some, and zeros elsewhere. */
  private static float[] spread(float[] some, int[] rows, int columns, int count) {
    float[] matrix = new float[count * columns];
    for (int i = 0; i < rows.length; i++) {
      System.arraycopy(some, i * columns, matrix, rows[i] * columns, columns);
    }
    return matrix;
  }

  /** The rows that sequences take of their room. */
  private static int[] filledRows(Batch padded, int[] packedOffsets) {
    int[] offsets = padded.offsets();
    return IntStream.range(0, padded.sequences())
        .flatMap(
            s ->
                IntStream.range(0, packedOffsets[s + 1] - packedOffsets[s])
                    .map(i -> offsets[s] + i))
        .toArray();
  }

  /** What is packed beside a sequence changes nothing in its results but their rounding. */
  @Test
  void sequencesDoNotSeeEachOther() {
    Batch batch = raggedBatch(new Random(2));
    try (Context context = Contexts.open(2);
        Transformer model = model(context);
        Scope scope = context.scope()) {
      Tensor all = model.forward(scope, batch).logits();
      int[] offsets = batch.responseOffsets();
      for (int s = 0; s < batch.sequences(); s++) {
        Batch alone =
            Batch.of(
                List.of(batch.prompts().get(batch.promptOf(s))),
                new int[] {0},
                new int[][] {batch.response(s)});
        float[] want = model.forward(scope, alone).logits().toFloats();
        float[] got = all.rows(offsets[s], offsets[s + 1]).toFloats();
        for (int i = 0; i < want.length; i++) {
          assertThat(got[i]).isCloseTo(want[i], within(2e-5f));
        }
      }
    }
  }

  // --------------------------------------------------------------------------------------
  // gradients

  /** Random weights of logits, and of queries and keys of some layers, that make a loss. */
  private static final class Loss {
    final int[] layers;
    final float[] ofLogits;
    final float[][] ofQ;
    final float[][] ofK;

    Loss(Random random, Batch batch, int... layers) {
      this.layers = layers;
      ofLogits = gaussian(random, (long) batch.responseRows() * CONFIG.vocabulary());
      ofQ = new float[layers.length][];
      ofK = new float[layers.length][];
      for (int l = 0; l < layers.length; l++) {
        ofQ[l] = gaussian(random, (long) batch.responseRows() * CONFIG.heads() * CONFIG.headDim());
        ofK[l] = gaussian(random, (long) batch.rows() * CONFIG.kvHeads() * CONFIG.headDim());
      }
    }

    double of(ReferenceTransformer.Result result) {
      double loss = dot(ofLogits, result.logits());
      for (int l = 0; l < layers.length; l++) {
        loss += dot(ofQ[l], result.q()[layers[l]]) + dot(ofK[l], result.k()[layers[l]]);
      }
      return loss;
    }

    private static double dot(float[] a, double[][] b) {
      double sum = 0;
      for (int r = 0; r < b.length; r++) {
        for (int c = 0; c < b[r].length; c++) {
          sum += a[r * b[r].length + c] * b[r][c];
        }
      }
      return sum;
    }

    /** Adds the loss's gradient to the model's. */
    void backward(Transformer model, Batch batch) {
      try (Scope scope = model.context().scope()) {
        Activations activations = model.forward(scope, batch, layers);
        List<AttentionGradient> attention = new ArrayList<>();
        for (int l = 0; l < layers.length; l++) {
          AttentionPolicy.Input input = activations.attention(layers[l]);
          attention.add(
              new AttentionGradient(
                  layers[l],
                  Tensor.of(scope, ofQ[l], input.q().shape()),
                  Tensor.of(scope, ofK[l], input.k().shape())));
        }
        Tensor dLogits = Tensor.of(scope, ofLogits, activations.logits().shape());
        model.backward(activations, dLogits, attention);
      }
    }
  }

  private static void clearGradients(Transformer model) {
    model.parameters().forEach(parameter -> parameter.gradient().zero());
  }

  /** All entries of a norm, a random sample of a matrix. */
  private static int[] sample(Random random, int size) {
    return size <= 24 ? IntStream.range(0, size).toArray() : random.ints(24, 0, size).toArray();
  }

  private static void assertGradientsAreTheDifferencesOf(
      Loss loss, Transformer model, Batch batch) {
    ReferenceTransformer reference = new ReferenceTransformer(model);
    Random random = new Random(99);
    double step = 1e-5;
    for (Parameter parameter : model.parameters()) {
      double[] gradient = parameter.gradient().toDoubles();
      double[] weights = reference.weights(parameter.name());
      double bound = 5e-6 * largest(gradient);
      assertThat(bound).as(parameter.name()).isPositive();
      for (int i : sample(random, weights.length)) {
        double weight = weights[i];
        weights[i] = weight + step;
        double up = loss.of(reference.forward(batch));
        weights[i] = weight - step;
        double down = loss.of(reference.forward(batch));
        weights[i] = weight;
        assertThat(gradient[i])
            .as("%s[%d]", parameter.name(), i)
            .isCloseTo((up - down) / (2 * step), within(bound));
      }
    }
  }

  /** Of the logits alone; of attention in a middle layer, in the last one, in several. */
  @ParameterizedTest
  @ValueSource(strings = {"", "1", "2", "2,0,1"})
  void gradientsAgreeWithFiniteDifferences(String layers) {
    Batch batch = raggedBatch(new Random(3));
    int[] attention =
        layers.isEmpty()
            ? new int[0]
            : Arrays.stream(layers.split(",")).mapToInt(Integer::parseInt).toArray();
    Loss loss = new Loss(new Random(4), batch, attention);
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      loss.backward(model, batch);
      assertGradientsAreTheDifferencesOf(loss, model, batch);
    }
  }

  /**
   * The patch embedding, which no row uses, has no gradient; it must not keep an old one either.
   */
  @Test
  void aBatchWithoutImagesHasGradients() {
    Random random = new Random(5);
    Batch batch =
        Batch.of(
            List.of(prompt(random, 0, 4)),
            new int[] {0, 0},
            new int[][] {tokens(random, 3), tokens(random, 5)});
    Loss loss = new Loss(random, batch, 1);
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      loss.backward(model, batch);
      assertThat(model.parameters().get(0).name()).isEqualTo("patch");
      assertThat(model.parameters().get(0).gradient().toFloats()).containsOnly(0f);
      float[] token = model.parameters().get(1).gradient().toFloats();
      TreeSet<Integer> read = new TreeSet<>();
      for (int s = 0; s < 2; s++) {
        Arrays.stream(batch.prompts().get(0).question()).forEach(read::add);
        Arrays.stream(batch.response(s), 0, batch.response(s).length - 1).forEach(read::add);
      }
      for (int t = 0; t < CONFIG.vocabulary(); t++) {
        double norm = 0;
        for (int c = 0; c < CONFIG.width(); c++) {
          norm += Math.abs(token[t * CONFIG.width() + c]);
        }
        assertThat(norm > 0).as("token %d", t).isEqualTo(read.contains(t));
      }
    }
  }

  @Test
  void gradientsOfSeveralBackwardPassesAddUp() {
    Random random = new Random(6);
    Batch first = raggedBatch(random);
    Batch second = raggedBatch(random);
    Loss one = new Loss(random, first, 1);
    Loss two = new Loss(random, second);
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      one.backward(model, first);
      List<double[]> sum = gradients(model);
      clearGradients(model);
      two.backward(model, second);
      List<double[]> other = gradients(model);
      one.backward(model, first);
      List<double[]> both = gradients(model);
      for (int p = 0; p < sum.size(); p++) {
        double bound = 3e-6 * (largest(sum.get(p)) + largest(other.get(p)));
        for (int i = 0; i < sum.get(p).length; i++) {
          assertThat(both.get(p)[i])
              .as("%s[%d]", model.parameters().get(p).name(), i)
              .isCloseTo(sum.get(p)[i] + other.get(p)[i], within(bound));
        }
      }
    }
  }

  private static List<double[]> gradients(Transformer model) {
    return model.parameters().stream().map(parameter -> parameter.gradient().toDoubles()).toList();
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(7);
    int sequences = 60; // more rows than one call of the provider takes
    List<Prompt> prompts = raggedPrompts(random);
    int[] promptOf = random.ints(sequences, 0, prompts.size()).toArray();
    int[][] responses = new int[sequences][];
    Arrays.setAll(responses, s -> tokens(random, 1 + random.nextInt(12)));
    Batch batch = Batch.of(prompts, promptOf, responses);
    Loss loss = new Loss(random, batch, 1, 2);
    float[] logits = null;
    List<double[]> gradients = null;
    int[][] drawn = null;
    for (int threads : new int[] {1, 2, 3}) {
      try (Context context = Contexts.open(threads);
          Transformer model = model(context);
          Scope scope = context.scope()) {
        loss.backward(model, batch);
        float[] ownLogits = model.forward(scope, batch).logits().toFloats();
        int[][] ownDrawn = model.sample(prompts, 9, new Sampling(1, 11, NEVER, 3, 4));
        List<double[]> ownGradients = gradients(model);
        if (logits == null) {
          logits = ownLogits;
          gradients = ownGradients;
          drawn = ownDrawn;
        }
        assertThat(ownLogits).isEqualTo(logits);
        assertThat(ownDrawn).isDeepEqualTo(drawn);
        for (int p = 0; p < gradients.size(); p++) {
          assertThat(ownGradients.get(p))
              .as(model.parameters().get(p).name())
              .isEqualTo(gradients.get(p));
        }
      }
    }
  }

  // ---------------------------------------------------------------------------------------
  // sampling

  private static int argmax(float[] x) {
    int best = 0;
    for (int j = 1; j < x.length; j++) {
      if (x[j] > x[best]) {
        best = j;
      }
    }
    return best;
  }

  /** Logits of the token after a prompt and the first tokens of a response. */
  private static float[] next(Transformer model, Prompt prompt, int... response) {
    try (Scope scope = model.context().scope()) {
      int n = response.length;
      int[] whole = Arrays.copyOf(response, n + 1); // the last token is never an input
      Batch batch = Batch.of(List.of(prompt), new int[] {0}, new int[][] {whole});
      return model.forward(scope, batch).logits().rows(n, n + 1).toFloats();
    }
  }

  @Test
  void greedyResponsesAreThoseOfFullForwardPasses() {
    List<Prompt> prompts = raggedPrompts(new Random(8));
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      int[][] responses = model.sample(prompts, 3, new Sampling(0, 13, NEVER, 0, 0));
      assertThat(responses).hasNumberOfRows(12);
      TreeSet<Integer> seen = new TreeSet<>();
      for (int s = 0; s < responses.length; s++) {
        Prompt prompt = prompts.get(s / 3);
        int[] want = new int[13];
        for (int i = 0; i < want.length; i++) {
          want[i] = argmax(next(model, prompt, Arrays.copyOf(want, i)));
          seen.add(want[i]);
        }
        assertThat(responses[s]).as("response %d", s).isEqualTo(want);
      }
      assertThat(seen).as("a model that says one thing proves nothing").hasSizeGreaterThan(4);
    }
  }

  @Test
  void seedAndOffsetDecideWhatIsDrawn() {
    List<Prompt> prompts = raggedPrompts(new Random(9));
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      Sampling sampling = new Sampling(1, 10, NEVER, 21, 3);
      int[][] first = model.sample(prompts, 3, sampling);
      assertThat(model.sample(prompts, 3, sampling)).isDeepEqualTo(first);
      assertThat(Arrays.equals(first[0], first[1])).as("responses of a group differ").isFalse();
      for (Sampling other :
          List.of(new Sampling(1, 10, NEVER, 21, 4), new Sampling(1, 10, NEVER, 22, 3))) {
        int[][] drawn = model.sample(prompts, 3, other);
        int equal = 0;
        for (int s = 0; s < drawn.length; s++) {
          equal += Arrays.equals(drawn[s], first[s]) ? 1 : 0;
        }
        assertThat(equal).as("responses of %s that are the same", other).isLessThan(3);
      }
    }
  }

  /** Two calls in a row draw from other counters: no step of one repeats a step of the other. */
  @Test
  void neighbouringOffsetsShareNoRandomNumbers() {
    List<Prompt> prompts = List.of(prompt(new Random(10), 2, 2));
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      // Without weights in the head every step draws from the same uniform distribution, so that
      // equal random numbers would be equal tokens.
      model.parameters().get(model.parameters().size() - 1).value().zero();
      int[][] first = model.sample(prompts, 40, new Sampling(1, 4, NEVER, 6, 0));
      int[][] second = model.sample(prompts, 40, new Sampling(1, 4, NEVER, 6, 1));
      for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
          int same = 0;
          for (int s = 0; s < 40; s++) {
            same += first[s][i] == second[s][j] ? 1 : 0;
          }
          assertThat(same).as("steps %d and %d", i, j).isLessThan(15);
        }
      }
    }
  }

  private static double[] probabilities(float[] logits, double temperature) {
    double top = logits[argmax(logits)];
    double[] p = new double[logits.length];
    double sum = 0;
    for (int j = 0; j < p.length; j++) {
      p[j] = Math.exp((logits[j] - top) / temperature);
      sum += p[j];
    }
    for (int j = 0; j < p.length; j++) {
      p[j] /= sum;
    }
    return p;
  }

  /**
   * Pairs of tokens, so that the second one's distribution is checked given the first. χ² lies
   * below its mean plus four deviations but for one seed in thousands; the seed is fixed.
   */
  @ParameterizedTest
  @ValueSource(floats = {1f, 0.35f})
  void responsesFollowTheDistributionOfTheModel(float temperature) {
    int draws = 6000;
    Prompt prompt = prompt(new Random(11), 5, 3);
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      int vocabulary = CONFIG.vocabulary();
      int[][] count = new int[vocabulary][vocabulary];
      Sampling sampling = new Sampling(temperature, 2, NEVER, 77, 5);
      for (int[] response : model.sample(List.of(prompt), draws, sampling)) {
        count[response[0]][response[1]]++;
      }
      double[] first = probabilities(next(model, prompt), temperature);
      double chi = 0;
      int cells = 0;
      double restWanted = 0;
      int restSeen = 0;
      for (int i = 0; i < vocabulary; i++) {
        double[] second = probabilities(next(model, prompt, i), temperature);
        for (int j = 0; j < vocabulary; j++) {
          double wanted = draws * first[i] * second[j];
          if (wanted >= 5) {
            chi += Math.pow(count[i][j] - wanted, 2) / wanted;
            cells++;
          } else {
            restWanted += wanted;
            restSeen += count[i][j];
          }
        }
      }
      if (restWanted > 0) {
        chi += Math.pow(restSeen - restWanted, 2) / restWanted;
      }
      assertThat(cells).isGreaterThan(8);
      assertThat(chi).isLessThan(cells + 4 * Math.sqrt(2.0 * cells));
    }
  }

  @ParameterizedTest
  @ValueSource(floats = {0f, 1f})
  void aResponseEndsWithTheStopTokenOrAtItsLongest(float temperature) {
    List<Prompt> prompts = raggedPrompts(new Random(12));
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      int[][] whole = model.sample(prompts, 3, new Sampling(temperature, 9, NEVER, 1, 2));
      assertThat(Arrays.stream(whole).allMatch(response -> response.length == 9)).isTrue();
      int ended = 0;
      int open = 0;
      for (int stop = 0; stop < CONFIG.vocabulary(); stop++) {
        int token = stop;
        int[][] stopped = model.sample(prompts, 3, new Sampling(temperature, 9, stop, 1, 2));
        for (int s = 0; s < whole.length; s++) {
          // A row's random numbers and its cache are its own: what others do changes nothing.
          int at = 0;
          while (at < 9 && whole[s][at] != token) {
            at++;
          }
          int length = Math.min(9, at + 1);
          assertThat(stopped[s]).isEqualTo(Arrays.copyOf(whole[s], length));
          if (at < 9) {
            ended++;
          } else {
            open++;
          }
        }
      }
      assertThat(ended).isGreaterThan(10);
      assertThat(open).isGreaterThan(10);
    }
  }

  @Test
  void oneTokenNoPromptsAndNoGroupAreLegal() {
    List<Prompt> prompts = raggedPrompts(new Random(13));
    try (Context context = Contexts.open(1);
        Transformer model = model(context)) {
      int[][] responses = model.sample(prompts, 2, new Sampling(1, 1, NEVER, 1, 1));
      assertThat(responses).hasDimensions(8, 1);
      assertThat(model.sample(List.of(), 2, new Sampling(1, 1, NEVER, 1, 1))).isEmpty();
      assertThat(model.sample(prompts, 0, new Sampling(1, 1, NEVER, 1, 1))).isEmpty();
    }
  }

  /** The longest response takes every position: its last token needs none. */
  @Test
  void responsesMayReachTheLastPosition() {
    Prompt prompt = prompt(new Random(14), 4, 2);
    try (Context context = Contexts.open(1);
        Transformer model = model(context)) {
      int longest = CONFIG.positions() - prompt.length() + 1;
      int[] response = model.sample(List.of(prompt), 1, new Sampling(0, longest, NEVER, 1, 1))[0];
      assertThat(response).hasSize(longest);
      int[] before = Arrays.copyOf(response, longest - 1);
      assertThat(response[longest - 1]).isEqualTo(argmax(next(model, prompt, before)));
      assertThatThrownBy(
              () -> model.sample(List.of(prompt), 1, new Sampling(0, longest + 1, NEVER, 1, 1)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("sequence: expected at most 24 positions, got 25");
    }
  }

  // ----------------------------------------------------------------------------------- what it
  // owns

  @Test
  void aCopyHasTheWeightsAndParametersOfItsOwn() {
    Batch batch = raggedBatch(new Random(15));
    try (Context context = Contexts.open(1);
        Transformer model = model(context);
        Transformer copy = model.copy();
        Scope scope = context.scope()) {
      float[] logits = model.forward(scope, batch).logits().toFloats();
      assertThat(copy.forward(scope, batch).logits().toFloats()).isEqualTo(logits);
      new Loss(new Random(1), batch).backward(copy, batch);
      for (int p = 0; p < model.parameters().size(); p++) {
        assertThat(model.parameters().get(p).gradient().toFloats()).containsOnly(0f);
        copy.parameters().get(p).value().zero();
      }
      assertThat(model.forward(scope, batch).logits().toFloats()).isEqualTo(logits);
      copy.copyFrom(model);
      assertThat(copy.forward(scope, batch).logits().toFloats()).isEqualTo(logits);
    }
  }

  @Test
  void passesLeaveNoMemoryBehind() {
    Batch batch = raggedBatch(new Random(16));
    try (Context context = Contexts.open(2);
        Transformer model = model(context)) {
      Loss loss = new Loss(new Random(1), batch, 2);
      loss.backward(model, batch);
      for (int i = 0; i < 2; i++) { // the second time a GPU records
        model.sample(batch.prompts(), 2, new Sampling(1, 5, NEVER, 0, 0));
      }
      long live = context.liveBytes();
      for (int i = 0; i < 3; i++) {
        loss.backward(model, batch);
        model.sample(batch.prompts(), 2, new Sampling(1, 5, NEVER, 0, 0));
      }
      assertThat(context.liveBytes()).isEqualTo(live);
    }
  }

  @Test
  void matricesDecayAndNormsDoNot() {
    try (Context context = Contexts.open(1);
        Transformer model = model(context)) {
      assertThat(model.parameters()).hasSize(3 + 6 * CONFIG.layers() + 2);
      assertThat(model.parameters().stream().map(Parameter::name)).doesNotHaveDuplicates();
      for (Parameter parameter : model.parameters()) {
        assertThat(parameter.decay())
            .as(parameter.name())
            .isEqualTo(!parameter.name().endsWith("norm"));
        assertThat(parameter.gradient().shape()).isEqualTo(parameter.value().shape());
      }
    }
  }

  // ------------------------------------------------------------------------------------------
  // errors

  @Test
  void rejectsWhatDoesNotFit() {
    Random random = new Random(18);
    Batch batch = raggedBatch(random);
    try (Context context = Contexts.open(1);
        Transformer model = model(context);
        Transformer copy = model.copy();
        Scope scope = context.scope()) {
      Batch tooLong =
          Batch.of(
              List.of(prompt(random, 20, 4)),
              new int[] {0, 0},
              new int[][] {tokens(random, 1), tokens(random, 2)});
      assertThatThrownBy(() -> model.forward(scope, tooLong))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("sequence: expected at most 24 positions, got 25");

      for (int token : new int[] {-1, CONFIG.vocabulary()}) {
        Prompt stranger = new Prompt(new float[0], 0, new int[] {1, token});
        assertThatThrownBy(
                () -> model.sample(List.of(stranger), 1, new Sampling(0, 1, NEVER, 0, 0)))
            .isInstanceOf(IllegalArgumentException.class)
            .hasMessage("tokens: expected 0 to 12, got " + token);
      }

      // Two wrong patches whose values add up to those of two right ones.
      List<Prompt> wrongPatches =
          List.of(
              new Prompt(new float[CONFIG.patchSize() - 1], 1, new int[] {1}),
              new Prompt(new float[CONFIG.patchSize() + 1], 1, new int[] {1}));
      Batch wrong = Batch.of(wrongPatches, new int[] {0, 1}, new int[][] {{1}, {2}});
      assertThatThrownBy(() -> model.forward(scope, wrong))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("patches: expected 7 values each, got 6");
      assertThatThrownBy(() -> model.sample(wrongPatches, 1, new Sampling(1, 2, NEVER, 0, 0)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("patches: expected 7 values each, got 6");

      for (int layer : new int[] {-1, 3}) {
        assertThatThrownBy(() -> model.forward(scope, batch, 0, layer))
            .isInstanceOf(IllegalArgumentException.class)
            .hasMessage("layer: expected 0 to 2, got " + layer);
      }
      Activations activations = model.forward(scope, batch, 1);
      assertThatThrownBy(() -> activations.attention(2))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("layer: expected one that forward was asked for, [1], got 2");

      Tensor dLogits = Tensor.zeros(scope, DType.F32, activations.logits().shape());
      Tensor dq = Tensor.zeros(scope, DType.F32, activations.attention(1).q().shape());
      Tensor dk = Tensor.zeros(scope, DType.F32, activations.attention(1).k().shape());
      assertThatThrownBy(
              () -> model.backward(activations, dLogits, List.of(new AttentionGradient(3, dq, dk))))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("layer: expected 0 to 2, got 3");
      assertThatThrownBy(() -> copy.backward(activations, dLogits, List.of()))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("activations: expected those of this model, got others");

      assertThatThrownBy(() -> model.sample(batch.prompts(), 1, new Sampling(1, 0, NEVER, 0, 0)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("maxTokens: expected at least 1, got 0");
      assertThatThrownBy(() -> model.sample(batch.prompts(), -1, new Sampling(1, 1, NEVER, 0, 0)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("group: expected at least 0, got -1");
    }
  }
}
