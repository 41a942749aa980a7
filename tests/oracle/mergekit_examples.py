"""mergekit configurations that are easy to read otherwise than mergekit does."""

EXAMPLES = {
    "linear": """
        merge_method: linear
        models:
        - {model: left, parameters: {weight: [0.1, 0.9]}}
        - {model: right, parameters: {weight: [{filter: mlp, value: [1, 0, 2]}, {value: 1e-1}]}}
        """,
    "base among the merged": """
        merge_method: linear
        base_model: base
        models: [{model: left}, {model: right}]
        parameters: {weight: 0.5, normalize: false}
        """,
    "filters, first match wins": """
        merge_method: ties
        base_model: base
        models:
        - model: left
          parameters:
            weight: [{filter: layers.1., value: 0.25}, {filter: proj, value: 0.5}]
            density: [{filter: down_proj, value: 0.3}, {filter: mlp, value: 0.6}, {value: [1, 0.2]}]
        - {model: base}
        - {model: right, parameters: {weight: 2}}
        parameters:
          weight: [{filter: norm, value: 0.125}, {value: [0.75, 0]}]
          int8_mask: true
          lambda: 0.7
        """,
    "slerp": """
        slices:
        - sources: [{model: base, layer_range: [0, 4]}, {model: left, layer_range: [0, 4]}]
        merge_method: slerp
        base_model: left
        parameters:
          t:
          - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
          - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
          - value: 0.5
        dtype: bfloat16
        """,
    "frankenmerge": """
        merge_method: passthrough
        slices:
        - sources: [{model: left, layer_range: [0, 3]}]
        - sources: [{model: deep, layer_range: [2, 6]}]
        - sources: [{model: right, layer_range: [1, 4]}]
        """,
    "block expansion": """
        merge_method: passthrough
        slices:
        - sources: [{model: left, layer_range: [0, 2]}]
        - sources:
          - model: left
            layer_range: [1, 2]
            parameters:
              scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]
        - sources: [{model: left, layer_range: [2, 4]}]
        """,
    "gradients restart in every slice": """
        merge_method: dare_ties
        base_model: base
        parameters: {weight: [0, 1], density: 0.5}
        slices:
        - sources: &s
          - {model: base, layer_range: [0, 3]}
          - {model: left, layer_range: [0, 3], parameters: {weight: [1, 0, 0.5]}}
          - {model: right, layer_range: [0, 3]}
        - sources:
          - {model: base, layer_range: [1, 4]}
          - {model: left, layer_range: [1, 4]}
          - {model: right, layer_range: [1, 4], parameters: {density: [0.1, 1]}}
        - parameters: {weight: [0.3, 0.9]}
          sources:
          - {model: base, layer_range: [3, 4]}
          - {model: left, layer_range: [3, 4]}
          - {model: right, layer_range: [3, 4]}
        """.replace(" &s", ""),
    "another base in a slice": """
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: 1, density: 0.2}
        slices:
        - sources: [{model: base, layer_range: [0, 2]}, {model: left, layer_range: [0, 2]}]
        - base_model: right
          sources: [{model: right, layer_range: [2, 4]}, {model: left, layer_range: [2, 4]}]
        """,
    "modules": """
        merge_method: della
        base_model: base
        modules:
          default:
            models: [{model: left, parameters: {weight: 1}}, {model: right}]
            parameters: {density: [0.4, 0.6], weight: 0.5}
        parameters: {epsilon: 0.1, density: 1, normalize: "no"}
        """,
    "nuslerp": """
        merge_method: nuslerp
        models:
        - {model: right, parameters: {weight: [0, 1]}}
        - {model: left, parameters: {weight: [1, 0]}}
        parameters: {nuslerp_row_wise: true, nuslerp_flatten: false}
        """,
    "model_stock": "{merge_method: model_stock, base_model: base, "
    "models: [{model: right}, {model: left}], parameters: {filter_wise: 1}}",
    "karcher": "merge_method: karcher\nmodels: [{model: right}, {model: left}]\n"
    "parameters: {max_iter: '12', tol: 1e-3}",
    "breadcrumbs": """
        merge_method: breadcrumbs_ties
        base_model: base
        models: [{model: left}, {model: right, parameters: {gamma: [0.1, 0.2]}}]
        parameters: {weight: [1, 1], density: 0.9}
        """,
}
